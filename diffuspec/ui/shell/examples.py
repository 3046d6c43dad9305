"""A prompt for each task family of Spec-Bench, of the kind a 135-million-parameter model can answer."""

EXAMPLES = {
    "chat": "Write a short, friendly e-mail that invites a colleague to lunch on Friday.",
    "translate": "Translate German to English: Der Zug nach Hamburg fährt heute leider zwanzig Minuten später ab.",
    "summarise": (
        "Summarise in two sentences: Honeybees tell each other where food is by dancing. A returning bee runs in a "
        "straight line and waggles its body; the angle of the line shows the direction from the sun, and the length "
        "of the waggle shows the distance. Other bees follow the dancer in the dark hive and then fly straight to the "
        "flowers."
    ),
    "question": "What is photosynthesis, and why is it important for life on Earth?",
    "maths": "A car accelerates from 0 to 60 miles per hour in 8 seconds. What is its average acceleration?",
    "retrieval": (
        "Use the passage to answer the question. Passage: The Great Barrier Reef lies off the coast of Queensland, "
        "Australia. It stretches for over 2,300 kilometres and is made of nearly 3,000 separate reefs. "
        "Question: How long is the Great Barrier Reef, and where is it?"
    ),
}
