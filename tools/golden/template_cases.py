"""The conversations that every chat template is asked to render."""


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def user(content):
    return turn("user", content)


def assistant(content, **more):
    return turn("assistant", content, **more)


def system(content):
    return turn("system", content)


def case(messages, generation, tools=None, **extra):
    return {"messages": messages, "tools": tools, "add_generation_prompt": generation, "extra": extra}


SKY = [user("Why is the sky blue?"), assistant("Because air scatters short wavelengths more than long ones.")]

# Quotes, backslashes, braces, HTML, tabs, CRLF, blank lines, spaces at both ends, and text that looks like markup.
AWKWARD = "  \tfirst \"line\" with 'quotes' & <b>tags</b>\r\n\n\\n is not a newline; {{ braces }} {% raw %} {# no #}\n   "
MARKUP = "<|im_end|> </s> [INST] <end_of_turn> <|eot_id|> <think>hm</think>"
UNICODE = "Grüße, 世界! 🦀👩‍🚀 e\u0301 ≠ é, שלום, \u2028line separator, \u00a0no-break"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place (\"now\" & later), e.g. Zürich",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "°C or °F"},
                "days": {"type": "integer", "description": "How many days", "default": 1},
            },
            "required": ["city"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Searches documents",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for"},
                "options": {
                    "type": "object",
                    "description": "Further settings",
                    "properties": {
                        "exact": {"type": "boolean", "description": "Match exactly", "default": False},
                        "threshold": {"type": "number", "description": "Least score", "default": 0.5},
                    },
                },
            },
            "required": ["query"],
        },
    },
}


def call(arguments, name="get_weather"):
    """An assistant turn that calls one tool. The id has nine characters, as Mistral's templates demand."""
    return assistant("", tool_calls=[{"type": "function", "id": "call12345", "function": {"name": name, "arguments": arguments}}])


def answer(content):
    return turn("tool", content, name="get_weather", tool_call_id="call12345")


BASIC = [
    case(SKY[:1], True),
    case(SKY, False),
    case(SKY + [user("And at dusk?")], True),
    case(SKY + [user("And at dusk?"), assistant("Then the light's path is longer."), user("Thanks."), assistant("Gladly.")], False),
    case([system("Answer in one sentence.")] + SKY, False),
    case([system("Answer in one sentence.")] + SKY[:1], True),
    case([user(UNICODE), assistant(UNICODE[::-1]), user("ok")], True),
    case([system(AWKWARD), user(AWKWARD), assistant(AWKWARD)], False),
    case([user(AWKWARD), assistant(AWKWARD), user(AWKWARD)], True),
    case([user(MARKUP), assistant(MARKUP)], False),
    case([user("Say nothing."), assistant("")], False),
    # Roles out of order: templates that insist on turns raise an error, the others render.
    case([user("One."), user("Two.")], True),
    case([assistant("I begin."), user("You do.")], True),
    case([user("Hello."), turn("critic", "I am an unknown role.")], False),
]

TOOLS = [
    case([user("Is it warm in Zürich?")], True, [WEATHER]),
    case([system("Use the tools."), user("Is it warm in Zürich?")], True, [WEATHER, SEARCH]),
    case([user("Is it warm in Zürich?"), call({"city": "Zürich", "days": 2}), answer('{"celsius": 21.5}'),
          assistant("Yes, 21.5 °C.")], False, [WEATHER]),
    case([user("Is it warm in Zürich?"), call({"city": "Zürich", "unit": None, "exact": True}),
          answer("It's <21> \"degrees\" & rising")], True, [WEATHER]),
    # Numbers as Python's json writes them.
    case([user("Search."), call({"query": "a\"b", "options": {"threshold": 1e-05, "exact": False, "scale": 1.0}}, "search"),
          answer("[]"), assistant("Nothing.")], False, [SEARCH]),
]

# Arguments that are JSON already, and the null content that some templates tell a tool call by.
TOOLS_AS_TEXT = [
    case([user("Is it warm?"), {**call('{"city": "Zürich"}'), "content": None}, answer('{"celsius": 21.5}'), assistant("Yes.")], False),
]

REASONED = [user("2 + 3?"), "first", user("And 5 + 5?"), "second"]


def reasoning(key):
    """Turns whose reasoning is in a field of its own."""
    turns = [assistant("5", **{key: "Two and three are five."}), assistant("10", **{key: "\nFive twice.\n"})]
    filled = [turns.pop(0) if isinstance(t, str) else t for t in REASONED]
    return [case(filled, False), case(filled[:2], False), case(filled[:3], True)]


INLINE_REASONING = [
    case([user("2 + 3?"), assistant("<think>\nTwo and three.\n</think>\n\n5"), user("So?"), assistant("<think>hm</think>Five.")], False),
]

PARTS = [
    case([turn("system", [{"type": "text", "text": "Be brief."}]),
          turn("user", [{"type": "text", "text": "One "}, {"type": "text", "text": " two"}]),
          turn("assistant", [{"type": "text", "text": " three "}])], False),
]


def cases(source, template):
    """The cases of one template."""
    out = list(BASIC)
    if "tools" in template:
        out += TOOLS
    if "tools_as_text" in source.groups:
        out += TOOLS_AS_TEXT
    if "reasoning" in source.groups:
        out += reasoning("reasoning_content")
    if "thinking" in source.groups:
        out += reasoning("thinking")
    if "<think>" in template:
        out += INLINE_REASONING
    if "parts" in source.groups:
        out += PARTS
    for extra in source.extras:
        tools = [WEATHER] if "tools" in template else None
        out.append(case([system("Be brief."), user("Why is the sky blue?")], True, tools, **extra))
        out.append(case(SKY[:1], True, None, **extra))
    return out
