"""What turns nodes into kernels: the template protocol, the specialiser of template functions, and their plain-Python emulation."""
