-- Objects, bytes of everything, bytes that are reserved.
return { sum('objects'), sum('used'), sum('reserved') }
