"""Stubs made by generate.sh; do not edit."""
