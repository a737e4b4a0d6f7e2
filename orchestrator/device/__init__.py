"""What a card can hold: cuda, emulated, or a fake."""
