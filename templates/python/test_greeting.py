import unittest

from greeting import greet


class GreetingTest(unittest.TestCase):
    def test_it_greets_by_name(self):
        self.assertEqual(greet("Hello", b'{"name": "Ada"}'), (200, '{"greeting": "Hello, Ada!"}'))
        self.assertEqual(greet("Hello", b""), (200, '{"greeting": "Hello, world!"}'))

    def test_what_is_no_json_is_refused(self):
        self.assertEqual(greet("Hello", b"{")[0], 400)


if __name__ == "__main__":
    unittest.main()
