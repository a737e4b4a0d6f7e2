"""What a worker runs: yolo, timm, or a fake."""
