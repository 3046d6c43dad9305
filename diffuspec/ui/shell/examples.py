"""A prompt for each task family of Spec-Bench that a model of 135 million parameters answers truly, but for
translation, which is beyond it. The first one stands on the page where no recorded trace does."""

EXAMPLES = {
    "question": "What is photosynthesis, and why is it important for life on Earth?",
    "chat": "Give three tips for sleeping better.",
    "maths": "What is 3 times 4? Answer in one sentence.",
    "retrieval": (
        "Passage: The Nile flows through eleven countries in Africa. It is about 6,650 kilometres long. "
        "Question: How long is the Nile?"
    ),
    "summarise": (
        "Summarise in one sentence: Honeybees tell each other where food is by dancing. The angle of the dance shows "
        "the direction and its length shows the distance."
    ),
    "translate": "Translate German to English: Der Zug nach Hamburg fährt heute leider zwanzig Minuten später ab.",
}
FIRST = EXAMPLES["question"]
