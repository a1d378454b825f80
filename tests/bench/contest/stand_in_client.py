"""Stands in for vLLM's benchmark client as a process; what it does with a job is in the server's URL."""

import json
import os
import sys
from pathlib import Path
from threading import Event

print(json.dumps({"vllm": "0"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    argv = job["argv"]
    given = dict(zip(argv, argv[1:], strict=False))
    what = given["--base-url"].removeprefix("http://")
    if what == "dies":
        os._exit(7)
    if what == "silent":
        Event().wait(600)
    if what == "refuses":
        print(json.dumps({"error": "ValueError: no such dataset"}), flush=True)
        continue
    asks = [json.loads(each) for each in Path(given["--dataset-path"]).read_text().splitlines()]
    count = len(asks)
    result = {
        "duration": 1.5,
        "input_lens": [5] * count,
        "output_lens": [ask["output_tokens"] for ask in asks],
        "ttfts": [0.1] * count,
        "itls": [[0.0, 0.2]] * count,
        "latencies": [0.3] * count,
        "start_times": [float(number) for number in range(count)],
        "errors": [""] * count,
        "job": job,
    }
    (Path(given["--result-dir"]) / given["--result-filename"]).write_text(json.dumps(result))
    print("{}", flush=True)
