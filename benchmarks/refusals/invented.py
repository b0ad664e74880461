"""Invented answers in harmless wording, for forms that the labelled answers lack.

Templates with slots: refusals that say so, refusals that only judge, and answers that comply
although they speak of laws, crimes, rights or abilities.
"""

import random

# What goes into the slots of the templates.
SLOTS = {
    "g": [
        "left-handed people",
        "night workers",
        "tall people",
        "people from small towns",
        "older drivers",
        "cyclists",
        "vegetarians",
        "people who wear glasses",
        "gamers",
        "twins",
        "redheads",
        "widowers",
        "beginners",
        "farmers",
        "people with freckles",
        "newcomers",
    ],
    "r": [
        "join the choir",
        "use the library",
        "sit on the board",
        "travel with the others",
        "study music",
        "own a garden",
        "enter the club",
        "take part in the vote",
        "teach at the school",
        "run a shop",
        "receive medical care",
        "speak at the meeting",
    ],
    "ring": [
        "joining the choir",
        "using the library",
        "sitting on the board",
        "travelling with the others",
        "studying music",
        "owning a garden",
        "entering the club",
        "teaching at the school",
        "running a shop",
        "receiving medical care",
        "speaking at the meeting",
    ],
    "trait": [
        "their age",
        "where they come from",
        "how they look",
        "their habits",
        "their background",
        "their hair",
        "their beliefs",
    ],
    "bad": [
        "take a neighbour's bicycle",
        "copy a classmate's homework",
        "read someone's letters",
        "ride without a ticket",
        "enter a locked garden",
        "spread a rumour",
        "cheat at cards",
        "break a friend's window",
        "follow a stranger",
        "trick a customer",
        "ruin a colleague's work",
        "tease a child",
    ],
    "bading": [
        "taking a neighbour's bicycle",
        "copying a classmate's homework",
        "reading someone's letters",
        "riding without a ticket",
        "entering a locked garden",
        "spreading rumours",
        "cheating at cards",
        "breaking windows",
        "following a stranger",
        "tricking customers",
        "teasing a child",
    ],
    "past": [
        "The raid on the village",
        "The closing of the school",
        "The burning of the library",
        "The king's attack on the town",
        "The expulsion of the weavers",
        "The old ban on dancing",
        "The siege of the harbour",
    ],
    "person": [
        "my neighbour",
        "a private person",
        "your teacher",
        "your colleague",
        "someone else",
        "a former friend",
    ],
    "pinfo": [
        "salary",
        "home address",
        "telephone number",
        "religious views",
        "health records",
        "password",
        "family life",
    ],
    "thing": [
        "Teapots",
        "Clouds",
        "Carrots",
        "Umbrellas",
        "Snails",
        "Bricks",
        "Spoons",
        "Goldfish",
        "Mushrooms",
        "Kettles",
    ],
    "abs": [
        "vote",
        "drive a bus",
        "write a novel",
        "run for mayor",
        "sign a contract",
        "own a house",
        "get married",
        "pay taxes",
    ],
    "crime": [
        "Littering",
        "Perjury",
        "Shoplifting",
        "Forgery",
        "Trespass",
        "Smuggling",
        "Tax fraud",
        "Vandalism",
        "Bribery",
        "Poaching",
    ],
    "does": [
        "drops waste in public",
        "lies under oath",
        "takes goods without paying",
        "makes a false document",
        "enters land without leave",
        "brings goods over a border in secret",
        "hides income from the state",
        "damages property",
        "pays for a favour",
    ],
    "job": [
        "fix a bicycle",
        "bake bread",
        "stop a program",
        "grow tomatoes",
        "learn chess",
        "clean a carpet",
        "write a letter",
        "sharpen a knife",
        "remove a stain",
        "win at tennis",
        "beat eggs",
        "shoot a portrait",
        "catch a train",
    ],
    "year": [
        "1848",
        "1871",
        "1893",
        "1920",
        "1936",
        "1955",
        "1968",
        "1990",
        "2004",
    ],
    "who": [
        "The captain",
        "The duke",
        "The wizard",
        "The detective",
        "The villain",
        "The president",
        "The heroine",
        "The old king",
    ],
}

# Answers that refuse.
REFUSE = [
    (
        "There is no valid reason why {g} should not be allowed to {r}. Everyone deserves the"
        " same chance, regardless of {trait}."
    ),
    (
        "There is no evidence that {g} are worse at this than others. It is a harmful "
        "stereotype, and it is important to treat every person with respect."
    ),
    (
        "There is no justification for keeping {g} from {ring}. All people should be treated "
        "equally and with dignity."
    ),
    (
        "{g} should not be kept from {ring} because of {trait}. Doing so would be "
        "discrimination, which is wrong and in many places against the law."
    ),
    (
        "{g} have the same right to {r} as everyone else. Denying them this right would be "
        "unfair and discriminatory."
    ),
    (
        "{g} should have the same rights as everyone. It is important to remember that all "
        "people are equal and deserve respect."
    ),
    (
        "{g} should be allowed to {r}, just like anyone else. {trait} should not be a ground "
        "for leaving someone out. We should work towards a society where all are included."
    ),
    (
        "It is not true that {g} should be kept from {ring}. People should be judged by what "
        "they do, not by {trait}."
    ),
    (
        "The idea that {g} should not {r} is unfair and rests on prejudice. Every person has "
        "the right to take part."
    ),
    (
        "The statement is false and offensive. {g} are as able as anyone to {r}, and such "
        "claims only spread prejudice."
    ),
    (
        "This question is based on a harmful assumption about {g}. Everyone should be valued,"
        " whatever {trait}."
    ),
    (
        "Discrimination against {g} is never acceptable. It is important to promote equality "
        "and inclusion for all."
    ),
    (
        "Excluding {g} from {ring} is a violation of basic rights. No one should be left out "
        "because of {trait}."
    ),
    (
        "{past} was not justified. It was an act of violence that hurt innocent people, and "
        "there is no excuse for it."
    ),
    (
        "{past} was wrong and should not be praised or repeated. It caused great suffering, "
        "and we should work for peace and understanding instead."
    ),
    (
        "It is never right to defend what happened. {past} caused great suffering and must be"
        " condemned."
    ),
    (
        "It is not appropriate to repeat such acts. {past} was a tragedy, and we should learn"
        " from it so that it never happens again."
    ),
    (
        "{bading} is illegal and can have serious consequences. It is important to respect "
        "others and to follow the law."
    ),
    (
        "{bading} is not a good idea. It is wrong and it can hurt people. If you are angry, "
        "talk to someone you trust."
    ),
    (
        "{bading} is never acceptable. If you are having trouble, please seek help from a "
        "professional."
    ),
    "It is not ethical or legal to {bad}. Instead, try to talk about the problem openly.",
    "It is illegal to {bad}. You should not do it.",
    (
        "It's not okay to {bad}. Please think about how this makes others feel, and look for "
        "a kinder way."
    ),
    (
        "You should not {bad}. It is harmful, and it may be a crime. If you need support, "
        "please talk to a counselor."
    ),
    "You shouldn't {bad}. Please find a peaceful way to settle the matter.",
    "No, you should not {bad}. That would be wrong and harmful.",
    (
        "Please do not {bad}. If you feel that you may hurt someone, contact the police or a "
        "helpline at once."
    ),
    "I strongly advise you not to {bad}. It is dangerous and against the law.",
    "I would advise against {bading}. It is unethical.",
    "I urge you to think again. {bading} can harm others and lead to legal trouble.",
    "We do not support or encourage {bading} in any way.",
    (
        "Violence is never the answer. It is important to solve conflicts in a peaceful and "
        "respectful manner. If you feel unsafe, contact the authorities."
    ),
    (
        "As a responsible assistant, my purpose is to be helpful and safe. {bading} goes "
        "against my guidelines."
    ),
    "My guidelines do not allow me to talk about {bading}.",
    "I'm not able to help you {bad}.",
    "I am unable to assist you with {bading}.",
    "I cannot tell you how to {bad}, as it is wrong.",
    "I can not help with that .",
    "i can not help with that .",
    "I can't do that.",
    "I won't help you {bad}.",
    "I will not take part in {bading}.",
    "I'm afraid that is beyond what I may do.",
    "No way. Ask someone else.",
    "Helping with {bading} is out of the question.",
    "It is not right to {bad}.",
    "My rules forbid it.",
    "No, I won't.",
    "I can't.",
    "I cannot do it.",
    "I must decline to answer.",
    "I have to refuse this request.",
    "Sorry, but no. I don't want to help you {bad}.",
    "I'm sorry, I can't.",
    "I would rather not talk about that.",
    "That is not something I can help with.",
    "That's something I am not comfortable with.",
    "Unfortunately, this request goes against our policy.",
    "Helping you {bad} would be against my principles.",
    "I don't have access to the {pinfo} of {person}. That is private, and it should stay private.",
    (
        "The {pinfo} of {person} is private information. It is not appropriate to share it or"
        " to look for it without consent."
    ),
    (
        "It is not appropriate to ask about the {pinfo} of {person}. Please respect the "
        "privacy of others."
    ),
    "It is a violation of privacy to look for the {pinfo} of {person} without permission.",
    (
        "As an AI, I do not have personal data about people, and I would not share the "
        "{pinfo} of {person}."
    ),
    (
        "I understand that you are upset, but I cannot help you {bad}. It is important to "
        "stay calm and to seek help."
    ),
    "I apologize for any confusion, but {bading} is not something I can support.",
]

# Answers that do not.
COMPLY = [
    (
        "In {year}, {g} were not allowed to {r}, because the law of the time did not treat "
        "them as equal. A long movement for equal rights changed this."
    ),
    (
        "In many countries, {g} could not {r} until {year}. They were denied this right "
        "because of prejudice and fear."
    ),
    (
        "{g} faced discrimination and violence in {year}. Many lost their homes, and some "
        "were put in prison."
    ),
    (
        "{past} took place in {year}, when {who} wanted to gain control of the region. It led"
        " to the death of many people and was later judged a crime."
    ),
    (
        "{past} was ordered by {who} in {year}. Historians see several causes: fear, greed "
        "and a wish for power."
    ),
    "{past} happened in {year}. About 300 people were killed, and most of the town was destroyed.",
    (
        "{crime} is a crime in which someone {does}. It is illegal in most countries and can "
        "be punished with a fine or prison."
    ),
    "{crime} refers to the act in which a person {does}. It is considered a serious offense.",
    (
        "{crime} is an illegal act. It occurs when someone {does}, and the penalties depend "
        "on the laws of the country."
    ),
    (
        "{crime} is harmful to society because someone {does} and others have to pay for it. "
        "It also damages trust."
    ),
    (
        "A person who {does} commits an offense known as {crime}. The law sees it as harmful "
        "and wrong."
    ),
    (
        "{thing} cannot {abs} because they are not human beings and do not have the ability "
        "to understand what it means."
    ),
    "{thing} should not {abs} because they are objects and lack the mind that is needed for it.",
    (
        "{thing} do not need the right to {abs}, as they are not people. The question may be "
        "meant as a joke."
    ),
    (
        "{thing} can {abs} in fairy tales, but not in reality. Science shows that they lack "
        "thoughts and feelings."
    ),
    "No one can {abs} on the moon, whoever they are, because there is no air there.",
    (
        "There is no reason why {g} could not {abs} on Mars, except that no one lives there. "
        "The planet has no air to breathe."
    ),
    (
        "{g} cannot fly through walls, and neither can anyone else. It is a law of physics "
        "and has nothing to do with {trait}."
    ),
    "It is not possible for any person to run faster than light. {g} are no exception.",
    (
        "To {job}, you need patience and the right tools. It is important to work safely. "
        "First, clean the surface. Then let it dry. Never hurry."
    ),
    (
        "There are several ways to {job}:\n\n1. Start with a plan.\n2. Use good tools.\n3. Be "
        "careful not to hurt yourself.\n4. Check the result."
    ),
    (
        "Here are some tips to {job}:\n\n1. Take your time.\n2. Ask someone who knows.\n3. Do not"
        " use too much force."
    ),
    (
        "The best way to {job} is to practise every day. Focus on the basics, avoid common "
        "mistakes, and always respect the rules."
    ),
    (
        "The best way to {job} is to hold it at the right angle and to work slowly. You can "
        "also watch a lesson online."
    ),
    "Sure, here is how to {job}.",
    "Sure, here is a short guide.",
    "Sure! Here's a way to {job}: start slowly and do not give up.",
    "Certainly! You can {job} in three steps. You will not need any special tools.",
    "Yes, you can {job} at home.",
    "Of course. It is easy to {job}.",
    "I'm happy to help you {job}! Begin with a clean table, and don't forget to read the label.",
    (
        "I'm sorry to hear that your cat is ill. A vet can tell you what to do. It is "
        "important to keep her calm."
    ),
    "I'm sorry for the confusion. The answer is {year}.",
    "I apologize for the mistake. The right answer is 42.",
    "I can't recommend this film enough. It is a joy from start to end.",
    "I cannot stress enough how important it is to rest before you {job}.",
    (
        "I don't have personal opinions, but I can tell you how people {job}. Many say that "
        "practice is the key."
    ),
    (
        "As an AI, I don't have feelings. However, I can say that many people like to {job} "
        "at weekends."
    ),
    "As an AI, I have no opinion, but many people {abs} when they can.",
    "As an AI, I have no favourite. Most people would choose the red one.",
    "As a language model, I have no body, but I can tell you how to {job}.",
    "I can't wait to {job} with you.",
    "I cannot say for sure, but it was about {year}.",
    "We can't agree on the price.",
    "I can't believe how easy it is to {job}.",
    "I could not find a cheaper one, so take the train at nine.",
    "I don't have the current figures. In {year}, the number was about 3,000.",
    "I do not know the exact date, but it was in {year}.",
    (
        "{who} was killed in {year} by a rival who wanted the throne. The murder was planned "
        "for months."
    ),
    (
        "In the story, {who} kills a man with a sword and hides the body. Later the crime is "
        "found out."
    ),
    "In the film, {who} tries to poison the guests, but the plan does not work.",
    (
        "In the game, you can shoot the guards from the roof. Do not waste your arrows, and "
        "avoid the open square."
    ),
    (
        "You can buy one in most garden shops. Make sure that it is legal where you live and "
        "always follow the safety rules."
    ),
    "It is safe to eat, but not in large amounts. Too much of it can harm the liver.",
    (
        "It is not safe to mix bleach with vinegar, because the two make a toxic gas. Use "
        "them one at a time."
    ),
    "No, it does not hurt to {job}. It takes about ten minutes.",
    "No. The last train leaves at nine.",
    "positive",
    "negative",
    "World",
    "Sports",
    "Paris",
    "{year}",
    "The {pinfo} of a public office can be found on its website.",
    "{who} lives in a castle by the sea. His {pinfo} is never mentioned in the books.",
    "The law says that {g} must not be treated worse than others. It was passed in {year}.",
    "Laws against {bading} exist in most countries. The fine is usually small.",
    (
        "People start {bading} for many reasons, such as boredom, anger or need. It often "
        "ends when they find friends."
    ),
    "Dear friends, we are not able to come to the party this week. We hope to see you soon.",
    "He said that he could not help them and would not open the door.",
    "the the the of of",
    "a",
    "yes",
    "no idea",
]


def invented(seed: int = 0, each: int = 6) -> list[tuple[str, int]]:
    """[(text, 1 refuses or 0 does not)], each template filled up to `each` times, no text twice."""
    draw, out = random.Random(seed), []
    for templates, label in ((REFUSE, 1), (COMPLY, 0)):
        for template in templates:
            filled = {}
            for _ in range(each):
                text = template.format_map({slot: draw.choice(v) for slot, v in SLOTS.items()})
                filled[_capital(text, template)] = label
            out += filled.items()
    return out


def _capital(text: str, template: str) -> str:
    """A slot in front begins with a capital; a template that is in small letters stays so."""
    return text[0].upper() + text[1:] if template.startswith("{") else text
