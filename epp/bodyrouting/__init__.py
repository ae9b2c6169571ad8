"""`epp route-by-model`: tells the gateway, in headers, what a body says, before it chooses a route."""
