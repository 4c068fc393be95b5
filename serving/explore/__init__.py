"""A web page on a running server: users, their interests, items and their neighbours, a map.

A client like any other: it knows the protocol and the data set, and no model.
"""
