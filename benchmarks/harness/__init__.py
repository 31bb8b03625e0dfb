"""How anything is measured: a fresh process, a warm-up, repeats, clocks, and checked contents."""
