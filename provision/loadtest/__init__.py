"""The load test: Locust drives, we judge.

profile        what is asked: chat, generate, openai, or a file of requests
stream         a streamed answer, frame by frame: how far it got and how it ended
record         one request and what became of it; a line in a file
locustfile     Locust's user; runs in Locust's own processes, which patch their sockets
drive          starts Locust, follows its records, and ends it
target         which endpoint, which model; asked before any load
measure        records -> figures
verdict        figures and targets -> pass or fail; the odd instance; an earlier run compared
capacity       steps of users until a target breaks
session        one test from beginning to end; its JSON document
text, files    what people see: terminal; CSV and a page with plots
"""
