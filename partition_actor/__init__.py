"""Group membership and work partitioning for Ray, with no service beside Ray."""
