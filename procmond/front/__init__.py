"""What reads peers: it listens, checks credentials, decodes, validates, asks the collector and forwards.

One rule: no answer is ever decoded here, no file is opened, and nothing here needs a privilege.
"""
