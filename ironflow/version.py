"""The version, where every part can import it."""

VERSION = "0.1.0"
