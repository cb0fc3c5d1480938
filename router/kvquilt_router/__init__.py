"""The router: plans, fetches, blends, recomputes, and streams the finished KV to the GPU worker."""
