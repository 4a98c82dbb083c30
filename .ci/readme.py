"""What CI runs of the README.

`python .ci/readme.py test` prints the command marked `<!-- ci: test -->`;
`python .ci/readme.py python` runs all Python blocks, in order, as one program.
"""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
what = sys.argv[1]
if what == "python":
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), "README.md", "exec"))
else:
    print(re.search(rf"<!-- ci: {what} -->\n```bash\n(.*?)```", text, re.S)[1])
