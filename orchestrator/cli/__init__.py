"""The command `orc`: a thin face on `jobs` and `client`."""
