"""Licences and sources that go with a release."""
