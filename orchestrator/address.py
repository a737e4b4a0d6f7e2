"""Addresses of folders in stores that every node reaches: ``s3://bucket/prefix?region=eu-west-1``."""

__all__ = ["above", "is_address", "joined", "last_name"]


def is_address(place: str) -> bool:
    """True for an address, false for a path."""
    return "://" in place


def joined(address: str, *names: str) -> str:
    """What lies below an address; its parameters, after a question mark, stay at the end."""
    head, mark, parameters = address.partition("?")
    return "/".join((head.rstrip("/"), *names)) + mark + parameters


def above(address: str, levels: int) -> str:
    """What lies so many levels above; the parameters stay."""
    head, mark, parameters = address.partition("?")
    return head.rsplit("/", levels)[0] + mark + parameters


def last_name(address: str) -> str:
    """The last part of an address, without its parameters."""
    return address.partition("?")[0].rpartition("/")[2]
