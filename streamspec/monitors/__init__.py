"""What the host says of itself: roots, clocks and libraries are passed in. Nothing here changes anything."""
