"""Other protocols than OpenAI's chats: their requests become chats, and answers take their form.

A protocol has a module of requests and one of answers, which are pure translations, and one of
routes.
"""
