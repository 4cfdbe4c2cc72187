import sys
from pathlib import Path

from parts.efficiency_table import tabulate

from odmt.home import Home
from odmt.tuning.space import load_space

here = Path(__file__).parent
space = load_space(str(here / "parts" / "search_efficiency.yaml"))
tabulate(space, Home.from_environment(), Path(sys.argv[1]))
