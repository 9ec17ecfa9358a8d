"""The protocol between client and server: its messages, errors and transport security."""
