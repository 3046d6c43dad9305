"""Prompts for a drafter's training data: what users ask, built from real text, templates and the target's own words.

A prompt is a *plan* of parts that `synthesis` carries out one after the other in one conversation:

Say(text)          the words of the user's turn, as they stand
Invent(start)      the user's turn is sampled from the target, after the words `start`
Answer(limit)      the target answers greedily: these tokens are what the drafter learns to foresee

Prompt number i is a function of (seed, i) alone, so that an interrupted synthesis can go on anywhere.
The six families are Spec-Bench's (Xia et al., arXiv 2401.07851); none of its questions is used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from diffuspec.measure.questions import Question
from diffuspec.training.text import LANGUAGES, Passage, sentences


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Invent:
    """Let the target go on from a beginning, sampling.

    start: the first words; limit: the most tokens to sample.
    """

    start: str = ""
    limit: int = 96


@dataclass(frozen=True)
class Answer:
    limit: int = 128


Part = Say | Invent | Answer


@dataclass(frozen=True)
class Prompt:
    number: int
    family: str
    parts: tuple[Part, ...]


def asked(questions: Sequence[Question], limit: int) -> list[Prompt]:
    """Questions of a file, answered turn by turn with at most `limit` tokens each."""
    return [
        Prompt(i, q.category, tuple(part for turn in q.turns for part in (Say(turn), Answer(limit))))
        for i, q in enumerate(questions)
    ]


SHARES = {"translation": 24, "summarization": 16, "rag": 15, "qa": 20, "math": 15, "mt": 10}


@dataclass
class Prompts:
    """Endless varied prompts. passages: real text; shares: the weight of each family."""

    passages: Sequence[Passage]
    seed: int = 0
    shares: dict[str, int] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self):
        by_words: dict[str, list[Passage]] = {"short": [], "long": []}
        self._foreign: dict[str, list[Passage]] = {}
        for passage in self.passages:
            words = len(passage.text.split())
            if passage.language != "en":
                self._foreign.setdefault(passage.language, []).append(passage)
            elif words >= 90:
                by_words["long"].append(passage)
            elif words >= 25:
                by_words["short"].append(passage)
        self._short, self._long = by_words["short"], by_words["long"]

    def __getitem__(self, number: int) -> Prompt:
        rng = random.Random(f"{self.seed}/{number}")
        names = [name for name in self.shares if self._possible(name)]
        family = rng.choices(names, [self.shares[name] for name in names])[0]
        make: Callable[[random.Random], tuple[Part, ...]] = getattr(self, f"_{family}")
        return Prompt(number, family, make(rng))

    def _possible(self, family: str) -> bool:
        if family == "translation":
            return bool(self._foreign)
        return family not in ("summarization", "rag") or bool(self._long)

    def _translation(self, rng: random.Random) -> tuple[Part, ...]:
        language = "de" if "de" in self._foreign and rng.random() < 0.8 else rng.choice(sorted(self._foreign))
        name = LANGUAGES[language]
        ask = f"Translate {name} to English: "
        if rng.random() < 0.12:
            ask = rng.choice((f"Translate this {name} sentence into English.\n", "What does this mean in English? "))
        if rng.random() < 0.25:
            return Invent(ask + _opening(rng, language), 48), Answer(96)
        for _ in range(20):
            choice = sentences(rng.choice(self._foreign[language]).text)
            if choice:
                return Say(ask + tokenised(rng, rng.choice(choice))), Answer(96)
        return Invent(ask + _opening(rng, language), 48), Answer(96)

    def _summarization(self, rng: random.Random) -> tuple[Part, ...]:
        ask = "Summarize: " if rng.random() < 0.8 else rng.choice(SUMMARISE)
        if rng.random() < 0.35:
            return Invent(ask + rng.choice(NEWS).format(**_slots(rng)), rng.choice((120, 200, 320))), Answer(128)
        return Say(ask + self._article(rng, rng.choice((120, 250, 400, 600, 900)))), Answer(128)

    def _rag(self, rng: random.Random) -> tuple[Part, ...]:
        text = "\n".join(self._article(rng, rng.choice((90, 130, 180))) for _ in range(rng.choice((2, 3, 3, 4))))
        text = " ".join(text.split(" ")[: rng.choice((300, 510, 510, 800))])
        if rng.random() < 0.6:
            return Invent(text + "\n" + rng.choice(QUESTION_STARTS).capitalize(), 24), Answer(128)
        return Say(text + "\n" + rng.choice(OVER_PASSAGE).format(topic=_topic(rng, text))), Answer(128)

    def _qa(self, rng: random.Random) -> tuple[Part, ...]:
        if rng.random() < 0.55:
            start = rng.choice(QUESTION_STARTS)
            return Invent(start.capitalize() if rng.random() < 0.7 else start, 24), Answer(112)
        topic = _topic(rng, rng.choice(self._short).text) if self._short else rng.choice(PLACES)
        return Say(rng.choice(FACTS).format(topic=topic, **_slots(rng))), Answer(112)

    def _math(self, rng: random.Random) -> tuple[Part, ...]:
        if rng.random() < 0.4:
            return Invent(rng.choice(WORD_PROBLEM_STARTS).format(**_slots(rng)), 80), Answer(128)
        return Say(rng.choice(WORD_PROBLEMS).format(**_slots(rng))), Answer(128)

    def _mt(self, rng: random.Random) -> tuple[Part, ...]:
        slots = _slots(rng)
        first: Part = Invent(limit=96) if rng.random() < 0.3 else Say(rng.choice(CHAT).format(**slots))
        if rng.random() < 0.2 and self._short:
            text = rng.choice(self._short).text
            first = Say(rng.choice(OVER_TEXT) + "\n" + text)
        if rng.random() < 0.6:
            return first, Answer(144), Say(rng.choice(FOLLOW_UPS).format(**slots)), Answer(112)
        return first, Answer(144)

    def _article(self, rng: random.Random, words: int) -> str:
        """This many words from a passage and those that follow it in its source; fewer where the source ends."""
        at = rng.randrange(len(self._long))
        first, found = self._long[at], []
        for passage in islice(self._long, at, None):
            if len(found) >= words or passage.source != first.source:
                break
            found += passage.text.split()
        return " ".join(found[:words])


def tokenised(rng: random.Random, sentence: str) -> str:
    """Half of the sentences with the spaced-out punctuation that translation corpora have."""
    if rng.random() < 0.5:
        return sentence
    for mark in ",.;:!?":
        sentence = sentence.replace(f"{mark} ", f" {mark} ")
    return f"{sentence[:-1]} {sentence[-1]}"


def _opening(rng: random.Random, language: str) -> str:
    return rng.choice(OPENINGS.get(language, OPENINGS["de"]))


def _topic(rng: random.Random, text: str) -> str:
    """A name or a longer word of the text, to ask about."""
    words = [w.strip(".,;:()\"'{}") for w in text.split()]
    names = [w for w in words[1:] if w.isalpha() and w[0].isupper() and len(w) > 3]
    long = [w for w in words if w.isalpha() and len(w) > 7]
    return rng.choice(names or long or ["this"])


def _slots(rng: random.Random) -> dict[str, str | int]:
    """What fills the templates: people, things, places, numbers."""
    a, b = rng.sample(range(2, 13), 2)
    first, second = rng.sample(NAMES, 2)
    return {
        "name": first,
        "other": second,
        "thing": rng.choice(THINGS),
        "place": rng.choice(PLACES),
        "job": rng.choice(JOBS),
        "theme": rng.choice(THEMES),
        "a": a,
        "b": b,
        "n": rng.randrange(12, 96),
        "m": rng.randrange(3, 30),
        "hundred": 50 * rng.randrange(2, 40),
        "percent": 5 * rng.randrange(1, 12),
        "year": rng.randrange(1450, 2020),
        "language": rng.choice(("Python", "JavaScript", "C", "SQL", "HTML")),
        "task": rng.choice(TASKS),
        "day": rng.choice(("Monday", "Tuesday", "Thursday", "Saturday", "Sunday")),
    }


NAMES = (
    "Anna Ben Carla David Ella Farid Grace Hugo Ines Jonas Kemi Lena Marco Nadia Oskar Priya Quentin Rosa Samir Tara "
    "Uwe Vera Wendy Xavier Yusuf Zoe Amara Bruno Chloe Dmitri Emeka Fiona"
).split()
THINGS = (
    "apples|pencils|books|marbles|tickets|cookies|eggs|stickers|bottles|chairs|oranges|cards|flowers|sandwiches|coins|"
    "pages|bricks|shirts|toy cars|balloons|candles|cakes|stamps|boxes|bags of rice|pizzas"
).split("|")
PLACES = (
    "Vienna|Peru|Kenya|Norway|Kyoto|the Alps|Cairo|Lisbon|Texas|Iceland|Mumbai|Prague|Chile|Scotland|Hamburg|Bolivia|"
    "Vietnam|Morocco|Toronto|the Sahara|Athens|Cuba|Munich|the Baltic Sea|Nigeria|New Zealand|Dublin|Ontario"
).split("|")
JOBS = (
    "teacher|pirate|chef|detective|travel guide|physician|gardener|lawyer|astronaut|librarian|football coach|"
    "medieval knight|weather presenter|job interviewer|poet|robot|tailor|historian|mathematician|bus driver"
).split("|")
THEMES = (
    "friendship|the ocean|climate change|public transport|healthy eating|the Roman Empire|volcanoes|chess|space travel|"
    "recycling|the printing press|jazz|electric cars|sleep|bees|remote work|the Silk Road|vaccination|photosynthesis|"
    "black holes|gravity|inflation|democracy|plate tectonics|the French Revolution|evolution|DNA|magnetism|"
    "supply and demand|the water cycle|Buddhism|impressionism|machine learning|encryption|the human heart|insulin|"
    "earthquakes|trade unions|the Renaissance|coffee|bridges|mountain climbing|a lost dog|a haunted library"
).split("|")
TASKS = (
    "reverses a string|counts the words in a file|checks whether a number is prime|sorts a list of names|"
    "computes the factorial of a number|finds the largest element of a list|removes duplicates from a list|"
    "prints a multiplication table|converts Celsius to Fahrenheit|validates an email address|merges two sorted lists|"
    "computes the n-th Fibonacci number|reads a CSV file|draws a button that shows a message|finds all even numbers"
).split("|")
OPENINGS = {
    "de": (
        "Die |Der |Das |Im |Nach |Ein |Eine |Mit |Bei |Am |In |Auch |Für |Seit |Wir |Es |Sie |Er |Wenn |Doch |Zwar |"
        "Die Polizei |Der Präsident |Das Unternehmen |In der Stadt |Am Montag |Die Bundesregierung |Nach Angaben "
    ).split("|")[:-1],
    "fr": ("Le ", "La ", "Les ", "Dans ", "Une ", "Il ", "Nous ", "Selon "),
    "es": ("El ", "La ", "Los ", "En ", "Una ", "Se ", "Cuando ", "Por "),
    "it": ("Il ", "La ", "I ", "Nel ", "Una ", "Si ", "Quando ", "Per "),
}
SUMMARISE = (
    "Summarize the following text: ",
    "Give a short summary of this article:\n",
    "TL;DR of the following:\n",
    "What are the main points of this text?\n",
    "Summarise in two sentences: ",
)
NEWS = (
    "({place}) - A ",
    "(Reuters) - The ",
    "Police in {place} have ",
    "A {job} from {place} has been ",
    "By {name} ",
    "Manchester ",
    "The government of {place} announced on {day} that ",
    "Residents of {place} ",
    "Scientists say ",
    "It was a {day} morning when {name} ",
    "The company said on {day} ",
    "An {place} court ",
    "The club's manager ",
    "President ",
    "{name} and {other} were ",
    "A new study ",
    "Former ",
    "More than {hundred} people ",
)
QUESTION_STARTS = (
    "who played|who wrote|who sang|who is the|who was the first|when did|when was|when is the|where is|where was|"
    "where does|what is the name of|what is the|what was the|what does|how many|how much|how long|how did|which|why|"
    "who won the|where did the|when does the|what year did|who invented|what type of|how do you|why did|what are|"
    "describe|explain why"
).split("|")
FACTS = (
    "What is {topic}?",
    "who discovered {topic}",
    "When was {topic} first used?",
    "where does the word {topic} come from",
    "What is the meaning of {topic}?",
    "How does {topic} work?",
    "Who is responsible for {topic}?",
    "what happened in {place} in {year}",
    "What is the capital of {place}?",
    "what is {place} famous for",
    "When did {theme} begin?",
    "Who is the most famous {job} in {place}?",
    "how many people live in {place}",
    "what is the difference between {topic} and {theme}",
    "Who wrote a book about {theme}?",
    "why is {theme} important",
    "where is {place} located",
    "What are the main causes of {theme}?",
    "who was king in {year}",
)
OVER_PASSAGE = (
    "What does the text say about {topic}?",
    "What is {topic}?",
    "Who or what is {topic} in the text?",
    "Explain the role of {topic}.",
    "When is {topic} mentioned?",
    "Why is {topic} important?",
    "What are the main points about {topic}?",
    "How does {topic} relate to the rest of the text?",
)
OVER_TEXT = (
    "Rewrite the following text in simpler words:",
    "Continue this text:",
    "List the key facts of this text:",
    "Extract all names from the following text:",
    "Correct the grammar of this text:",
    "Turn this into a short poem:",
    "Is the tone of this text positive or negative? Explain.",
    "Explain this to a child:",
)
WORD_PROBLEM_STARTS = (
    "{name} has {n} {thing}.",
    "{name} buys {a} {thing}",
    "A {job} earns",
    "There are {n} {thing} in",
    "{name} is {m}",
    "A train",
    "In a class of {n} students,",
    "{name} and {other}",
    "A farmer",
    "Every {day}, {name}",
    "A shop sells",
    "{name} wants to",
    "A bakery makes",
    "To get to {place}, {name}",
    "{name} spends {percent}% of",
)
WORD_PROBLEMS = (
    "{name} has {n} {thing} and gives {m} of them to {other}. Then {name} buys {a} more. How many {thing} does {name} "
    "have now?",
    "{name} buys {a} boxes of {thing}. Each box holds {m} and costs ${b}. How much does {name} pay, and how many "
    "{thing} are there in all?",
    "A {job} works {a} hours a day for {b} days and earns ${m} an hour. How much does the {job} earn?",
    "{name} reads {m} pages a day. The book has {hundred} pages. How many days does {name} need?",
    "A shop had {hundred} {thing}. It sold {percent}% of them on {day} and {m} more the day after. How many are left?",
    "{name} is {a} years older than {other}. In {b} years, {other} will be {n}. How old is {name} now?",
    "The ticket to {place} costs ${hundred}. With a {percent}% discount, how much do {a} tickets cost?",
    "{name} drives {hundred} miles at {n} miles per hour and rests {a} times for {m} minutes. How long does it take?",
    "There are {a} rows of {m} {thing}. {name} takes {b} away. How many {thing} remain?",
    "{name} saves ${m} every week. After {a} weeks {name} spends ${b}. How many more weeks until {name} has "
    "${hundred}?",
    "A recipe for {a} people needs {m} {thing}. {name} cooks for {n} people. How many {thing} are needed?",
    "{name} and {other} share {n} {thing} in the ratio {a} to {b}. How many does each of them get?",
    "A class of {n} students collects {thing}. Each of them brings {a}, except for {b} students, who bring nothing. "
    "How many {thing} do they have?",
    "{name} runs {a} miles on {day} and twice as many the next day. {other} runs {m} miles in all. Who runs more, and "
    "by how much?",
    "Half of {name}'s {hundred} {thing} are red, {percent}% of the rest are blue. How many {thing} are blue?",
)
CHAT = (
    "Write a short story about {theme}.",
    "Write an email to a {job} about {theme}.",
    "Compose a poem on {theme}.",
    "Pretend to be a {job}. What do you think of {theme}?",
    "Imagine you are a {job} in {place}. Describe your day.",
    "Explain {theme} and how it affects daily life.",
    "Give me {a} tips for {theme}.",
    "Draft a speech about {theme}.",
    "Write a program in {language} that {task}.",
    "Write a {language} function that {task}, and explain it.",
    "What are the pros and cons of {theme}?",
    "Compare {theme} with {thing}.",
    "Outline a blog post about {theme}.",
    "Plan a trip to {place} of {a} days.",
    "How would a {job} explain {theme} to a beginner?",
    "If {name} is taller than {other}, and {other} is taller than me, who is the shortest?",
    "Solve for x: {a}x + {b} = {n}.",
    "What is the area of a rectangle with sides {a} and {m}?",
    "List {a} facts about {place}.",
    'Rate these reviews from 1 to 5: "Great {thing}!" "The {thing} were broken."',
    "Describe how {theme} shaped the history of {place}.",
    "Write a product description for {thing}.",
    "I feel sad today because of {theme}. What can I do?",
    "What would happen if there were no {thing}?",
)
FOLLOW_UPS = (
    "Now explain it to a five-year-old.",
    "Make it shorter.",
    "Rewrite your answer as a limerick.",
    "Why?",
    "Can you give an example?",
    "What are the limits of your answer?",
    "Translate your answer into German.",
    "Now do the same for {theme}.",
    "Write it in the style of a {job}.",
    "List the key points as bullets.",
    "How would this change in {place}?",
    "Is that always true?",
    "What if there were {m} {thing}?",
    "Thanks! What next?",
    "Start every sentence with the letter {name[0]}.",
    "Summarise what we have said so far.",
    "Can you make it faster?",
)
