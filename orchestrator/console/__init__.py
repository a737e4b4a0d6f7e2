"""What people see in a terminal: lines, bars, tables, errors."""
