"""Ways to store KV that kvquilt is compared with, one a file, behind one interface (`types`)."""
