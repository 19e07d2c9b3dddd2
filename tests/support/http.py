"""One HTTP client for the tests of whole processes.

``httpx2.get`` makes a client for each request, and with it a TLS context: thirty milliseconds of processor time that a
test which polls spends again and again. No connection is kept, because processes are killed and started again.
"""

import httpx2

CLIENT = httpx2.Client(verify=False, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0))
