"""The load test: Locust drives, we judge.

profile        the requests: chat, generate, openai, or a file of requests
stream         a streamed answer, frame by frame: its progress and its end
record         one request and its outcome; a line in a file
locustfile     Locust's user; runs in Locust's own processes, which patch their sockets
locust_page    our tab on Locust's own page; runs in Locust's processes too
drive          starts Locust, follows its records, and ends Locust
target         the endpoint and the model; asked before any load
measure        records -> figures
verdict        figures and targets -> pass or fail; the odd instance; a comparison with an earlier run
capacity       steps of users until a target breaks
sizing         the instances that a number of users needs
session        a test from beginning to end; its JSON document
about          time, versions, command and fleet of a test
text, files    the output: lines for a terminal; CSV
page, plots    the output: a page, with plots by matplotlib
"""
