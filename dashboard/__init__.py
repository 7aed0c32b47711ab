"""The provider's web page: a client of the HTTP API like any other.

It holds no key of its own. An operator signs in with a provider API key, which stays in this
process's memory for as long as the session lasts; everything shown is what that key may read.
"""
