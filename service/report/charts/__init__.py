"""Charts as inline SVG. Horizontal positions are per cent of the plot and vertical ones pixels, so that a chart takes
any width while its text keeps its size."""
