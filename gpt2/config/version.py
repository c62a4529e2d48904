"""The version of this program. CHANGES.md lists the changes of each."""

VERSION = "2.0.0"
