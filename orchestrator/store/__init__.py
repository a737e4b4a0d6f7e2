"""What is remembered: SQL, or memory behind the same port."""
