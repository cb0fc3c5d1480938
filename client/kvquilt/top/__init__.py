"""What `kvquilt top` shows: samples of a router's state, and how they are drawn."""
