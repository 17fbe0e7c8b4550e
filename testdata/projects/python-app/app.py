"""Serves recipes from a YAML file, scaled to the number of persons.

app.py           serves on port 8080:  GET /, GET /RECIPE?persons=N
app.py --once    asks itself a few questions, prints the answers and ends
app.py --check   reads the recipes and ends
"""

import http.server
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import yaml


def load(path="recipes.yaml"):
    with open(path, encoding="utf-8") as file:
        recipes = yaml.safe_load(file)
    for name, recipe in recipes.items():
        if recipe["persons"] < 1 or not recipe["ingredients"]:
            raise ValueError(f"recipe {name} feeds nobody")
    return recipes


def scaled(recipe, persons):
    factor = persons / recipe["persons"]
    return {name: round(amount * factor, 1) for name, amount in recipe["ingredients"].items()}


class Handler(http.server.BaseHTTPRequestHandler):
    recipes = {}

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        name = url.path.strip("/")
        if not name:
            return self.answer(200, ", ".join(sorted(self.recipes)))
        if name not in self.recipes:
            return self.answer(404, f"no recipe for {name}")
        recipe = self.recipes[name]
        persons = urllib.parse.parse_qs(url.query).get("persons", [recipe["persons"]])[0]
        self.answer(200, yaml.safe_dump(scaled(recipe, int(persons)), default_flow_style=True))

    def answer(self, status, text):
        body = (text.strip() + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def once():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for path in ["/", "/pancakes", "/bread?persons=2", "/stew"]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}") as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        print(f"GET {path}: {status} {body.decode().strip()}")
    server.shutdown()


def main():
    Handler.recipes = load()
    if "--check" in sys.argv:
        print(f"{len(Handler.recipes)} recipes, PyYAML {yaml.__version__.split('.')[0]}")
    elif "--once" in sys.argv:
        once()
    else:
        http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()


if __name__ == "__main__":
    main()
