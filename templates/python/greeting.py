"""What `hello` answers, as plain Python: it is tested without WebAssembly."""

import json


def greet(greeting: str, body: bytes) -> tuple[int, str]:
    """The status and the JSON that greet whoever the request names: `{"name": "Ada"}`."""
    try:
        request = json.loads(body) if body else {}
    except ValueError as error:
        return 400, json.dumps({"error": f"the body is not JSON: {error}"})
    name = request.get("name") if isinstance(request, dict) else None
    return 200, json.dumps({"greeting": f"{greeting}, {name or 'world'}!"})
