"""Tests of the page that fixes sections."""
