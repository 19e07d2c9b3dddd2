"""HTTP plumbing of the API: routing, authentication, query parameters, pagination, responses, problem details."""
