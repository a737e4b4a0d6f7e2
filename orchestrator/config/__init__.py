"""From YAML to frozen types: strict, and every error names the field and the remedy."""
