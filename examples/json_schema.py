"""Structured output: every token is drawn under a JSON schema, so the answer always parses.

python examples/json_schema.py [MODEL.gguf]
"""

import json
import sys

import pytreellama as ptl

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "country": {"type": "string", "maxLength": 30},
        "population": {"type": "integer", "minimum": 0, "maximum": 100_000_000},
    },
    "required": ["city", "country", "population"],
    "additionalProperties": False,
}

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Engine(model) as engine:
    question = {"role": "user", "content": "Describe the capital of France as JSON."}
    answer = engine.generate([question], json_schema=SCHEMA, max_tokens=192, temperature=0)

print(json.dumps(json.loads(answer.text), indent=2))
