"""Labelled turns of conversations: what was said, what is asked now, and what has to be searched for.

HELD_OUT was scored when the rules were done, and they were not changed for it.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.types import Turn

EIFFEL = (
    "What is the Eiffel Tower?",
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris. [1]",
)
DESIGNER = (*EIFFEL, "Who designed it?", "The tower was designed by the engineer Gustave Eiffel. [1]")
GATE = ("What is a tide gate?", "A tide gate lets water through one way. [1]")
DENVER = ("What is the population of Denver?", "Denver had 715,522 inhabitants in 2020. [1]")
SUPER_BOWL = ("Who won the Super Bowl in 2014?", "The Seattle Seahawks won it. [1]")
PORT = ("What is the default port of Envoy?", "Envoy listens on port 8080 by default. [1]")
HAMLET = ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare around 1600. [1]")
NAPOLEON = ("When did Napoleon invade Russia?", "Napoleon invaded Russia in June 1812. [1]")
RETRY = ("Does Envoy retry failed requests?", "Envoy retries a request on another replica. [1]")
FAST = ("How many passages does the fast tier take?", "The fast tier takes 5 passages. [1]")
HELLO = ("Hello", "Hello! What would you like to know?")
UNKNOWN = ("How do I bake bread?", "The documents do not hold an answer to this question.")


class Case(NamedTuple):
    """said: texts in turn, the user's first. exact: the resolved question; has, lacks: parts of it, by commas.

    None of the three: the question stands alone and stays as it is.
    """

    said: tuple[str, ...]
    question: str
    exact: str = ""
    has: str = ""
    lacks: str = ""

    @property
    def stands_alone(self) -> bool:
        return not (self.exact or self.has)

    @property
    def history(self) -> list[Turn]:
        return [Turn("assistant" if at % 2 else "user", text) for at, text in enumerate(self.said)]

    def is_met_by(self, text: str) -> bool:
        if self.stands_alone:
            return text == self.question
        if self.exact:
            return text == self.exact
        lower = text.lower()
        wanted, unwanted = (
            [part.strip().lower() for part in parts.split(",") if part.strip()]
            for parts in (self.has, self.lacks)
        )
        return all(part in lower for part in wanted) and not any(part in lower for part in unwanted)


DEVELOPED = [
    # Pronouns that take the place of a thing.
    Case(EIFFEL, "Who designed it?", "Who designed the Eiffel Tower?"),
    Case(EIFFEL, "and who designed it?", "who designed the Eiffel Tower?"),
    Case(EIFFEL, "How tall is it?", "How tall is the Eiffel Tower?"),
    Case(EIFFEL, "What is its height?", "What is the Eiffel Tower's height?"),
    Case(GATE, "How does it work?", "How does a tide gate work?"),
    Case(GATE, "who needs one?", has="tide gate, needs"),
    Case(GATE, "Where are they built?", has="tide gate, built"),
    Case(DENVER, "Who is its mayor?", "Who is Denver's mayor?"),
    Case(DENVER, "What is the weather like there?", has="weather, Denver", lacks="population"),
    Case(PORT, "Can I change it?", has="change, port, Envoy"),
    Case(RETRY, "How often does it do that?", has="how often, Envoy, retry"),
    Case(("Tell me about the Great Barrier Reef.", "It is a reef system. [1]"), "How long is it?",
         "How long is the Great Barrier Reef?"),
    Case(("What does `search` do?", "`search` asks FAISS for passages. [1]"), "Which inputs does it take?",
         has="inputs, search"),
    Case(("How does the ingest worker start?", "The supervisor starts the ingest worker. [1]"),
         "What happens when it crashes?", "What happens when the ingest worker crashes?"),
    Case(("What are receipts?", "Receipts tell what happened to a request. [1]"), "How long are they kept?",
         "How long are receipts kept?"),
    # Persons.
    Case(DESIGNER, "When was he born?", has="born, Gustave Eiffel"),
    Case(HAMLET, "When was he born?", has="born, William Shakespeare", lacks="Hamlet"),
    Case(HAMLET, "When was it published?", "When was Hamlet published?"),
    Case(NAPOLEON, "What did he do there?", "What did Napoleon do in Russia?"),
    Case(("Who was Marie Curie?", "Marie Curie was a physicist. [1]"), "What did she discover?",
         "What did Marie Curie discover?"),
    Case(("Who was Marie Curie?", "Marie Curie was a physicist. [1]"), "Where did her husband work?",
         "Where did Marie Curie's husband work?"),
    # Chains: the last question was a follow-up itself.
    Case((*DESIGNER, "When was he born?", "Gustave Eiffel was born in 1832. [1]"), "And where?",
         has="where, born, Gustave Eiffel"),
    Case((*EIFFEL, "How tall is it?", "It is 330 metres tall. [1]"), "Who owns it?", "Who owns the Eiffel Tower?"),
    # Ellipses.
    Case(RETRY, "why?", "why does Envoy retry failed requests?"),
    Case(RETRY, "How?", "How does Envoy retry failed requests?"),
    Case(("When was the gate closed?", "The gate was closed at noon. [1]"), "Why?", "Why was the gate closed?"),
    Case(("What did the operator do at high tide?", "The operator closed the gate. [1]"), "Why?",
         has="why, operator, gate"),
    Case(SUPER_BOWL, "and in 2015?", "Who won the Super Bowl in 2015?"),
    Case(SUPER_BOWL, "What about 2013?", "Who won the Super Bowl in 2013?"),
    Case(DENVER, "What about Boulder?", "What is the population of Boulder?"),
    Case(DENVER, "and of Aspen?", "What is the population of Aspen?"),
    Case(DENVER, "And in 2010?", has="population, Denver, 2010"),
    Case(PORT, "and of Redis?", "What is the default port of Redis?"),
    Case(PORT, "and the timeout?", has="timeout, Envoy"),
    Case(FAST, "and the deep tier?", "How many passages does the deep tier take?"),
    Case(FAST, "Why so many?", has="passages, fast tier"),
    Case(GATE, "Tell me more.", has="tide gate"),
    Case(GATE, "more", has="tide gate"),
    Case(GATE, "For example?", has="tide gate"),
    Case(GATE, "and in winter?", has="tide gate, winter"),
    Case(("Which museums are in Denver?", "The Denver Art Museum is in Denver. [1]"), "How many are there?",
         has="museums, Denver, how many"),
    Case(("Which tiers are there?", "There are `fast` and `deep`. [1]"), "and the second one?",
         has="second, tiers"),
    Case(("Which tiers are there?", "There are `fast` and `deep`. [1]"), "Which one is cheaper?",
         has="cheaper, tiers"),
    Case(EIFFEL, "Who was the architect?", has="architect, Eiffel Tower"),
    Case((*HELLO, *EIFFEL), "When was it built?", "When was the Eiffel Tower built?"),
    Case(("What does a night at the north pier cost?", "It costs 42 euros. [1]"), "And at the south pier?",
         "What does a night at the south pier cost?"),
    Case(("Who is at the pier?", "Boats of the cooperative are at the pier. [1] Yachts pay 42 euros. [2]"), "Why?",
         "Why: Boats of the cooperative are at the pier?"),
    Case(("What does Envoy do?", "Envoy balances. [1]"), "How does it do that?", "How does Envoy do that?"),
    Case(GATE, "Could you give me an example?", has="example, tide gate"),
    Case(GATE, "Who came up with that idea?", has="came up, tide gate"),
    # German.
    Case(("Was ist der Eiffelturm?", "Der Eiffelturm ist ein Turm in Paris. [1]"), "Wer hat ihn entworfen?",
         has="entworfen, Eiffelturm"),
    Case(("Was ist der Eiffelturm?", "Der Eiffelturm ist ein Turm in Paris. [1]"), "Und wie hoch ist er?",
         has="wie hoch, Eiffelturm"),
    Case(("Wer gewann den Grand Prix 2014?", "Lewis Hamilton gewann. [1]"), "Und 2015?",
         has="Grand Prix, 2015", lacks="2014"),
    Case(("Warum wurde das Tor geschlossen?", "Wegen der Flut. [1]"), "Wann?", has="wann, Tor, geschlossen"),
    # Questions that stand alone, whatever was said before.
    Case(EIFFEL, "What is a tide gate?"),
    Case(EIFFEL, "Who designed the Statue of Liberty?"),
    Case(EIFFEL, "And who is the mayor of Denver?"),
    Case(EIFFEL, "Is it possible to change the default port of Envoy?"),
    Case(EIFFEL, "How long does it take to restart a replica?"),
    Case(EIFFEL, "What is Envoy and how does it work?"),
    Case(EIFFEL, "When a replica dies, what happens to its streams?"),
    Case(EIFFEL, "Who was Napoleon and when did he die?"),
    Case(EIFFEL, "Are there any tests that need a GPU?"),
    Case(EIFFEL, "How do I install this software?"),
    Case(EIFFEL, "What does the setting that limits the queue do?"),
    Case(EIFFEL, "Where does the company have its headquarters?"),
    Case(EIFFEL, "hello"),
    Case(EIFFEL, "Who are you?"),
    Case(EIFFEL, "Why are replicas restarted?"),
    Case(EIFFEL, "How many workers does the gateway start?"),
    Case(DENVER, "Compare the fast tier and the deep tier"),
    Case(DENVER, "In which year was the Treaty of Versailles signed?"),
    Case(DENVER, "What happened in 2015?"),
    Case(GATE, "Was ist ein Sperrwerk?"),
    Case(GATE, "Gibt es einen Hafen in Hamburg?"),
    Case(DENVER, "What if I misspell the name of a setting?"),
    Case(DENVER, "Which version of Redis is bundled?"),
    Case(DENVER, "How about the new rules: who wrote them?"),
    Case((), "Who designed it?"),
    Case((), "why?"),
    Case(HELLO, "Why?"),
    # First held out, then looked at.
    Case(("What is the Golden Gate Bridge?", "It is a suspension bridge. [1]"), "When did it open?",
         "When did the Golden Gate Bridge open?"),
    Case(("What is the Golden Gate Bridge?", "It is a suspension bridge. [1]"), "Who paid for it?",
         "Who paid for the Golden Gate Bridge?"),
    Case(("Where is the Louvre?", "The Louvre is in Paris. [1]"), "What is its most famous painting?",
         has="most famous painting, Louvre"),
    Case(("Who invented the telephone?", "Alexander Graham Bell patented it in 1876. [1]"),
         "Where did he live?", has="Alexander Graham Bell, live"),
    Case(("Who is Ada Lovelace?", "Ada Lovelace was a mathematician. [1]"), "and when did she die?",
         "when did Ada Lovelace die?"),
    Case(("When was the Brooklyn Bridge opened?", "It was opened in 1883. [1]"), "by whom?",
         has="whom, Brooklyn Bridge, opened"),
    Case(("When was the Brooklyn Bridge opened?", "It was opened in 1883. [1]"), "and the Manhattan Bridge?",
         "When was the Manhattan Bridge opened?"),
    Case(("How does the recorder write receipts?", "It writes them in batches. [1]"), "why in batches?",
         has="batches, recorder, receipts"),
    Case(("What is the capital of France?", "Paris is the capital of France. [1]"), "How many people live there?",
         has="people live, France"),
    Case(("What is the capital of France?", "Paris is the capital of France. [1]"), "and of Spain?",
         "What is the capital of Spain?"),
    Case(("How much does a ticket cost in summer?", "A ticket costs 12 euros. [1]"), "and in winter?",
         "How much does a ticket cost in winter?"),
    Case(("What was the GDP of Japan in 1990?", "It was 3.1 trillion dollars. [1]"), "What about 2000?",
         "What was the GDP of Japan in 2000?"),
    Case(("What was the GDP of Japan in 1990?", "It was 3.1 trillion dollars. [1]"), "How about Germany?",
         "What was the GDP of Germany in 1990?"),
    Case(("Can I delete a collection?", "A collection can be deleted. [1]"), "What happens to its files?",
         has="files, collection"),
    Case(("What is single flight?", "Identical questions share one run. [1]"), "Is that faster?",
         has="faster, single flight"),
    Case(("What causes tides?", "The moon causes tides. [1]"), "Could you explain that?", has="tides"),
    Case(("Which rivers cross Berlin?", "The Spree and the Havel cross Berlin. [1]"), "Which is longer?",
         has="longer, rivers, Berlin"),
    Case(("Who leads the finance team?", "Maria Schmidt leads the finance team. [1]"),
         "What is her phone number?", has="phone number, Maria Schmidt"),
    Case(("Wer schrieb Faust?", "Goethe schrieb Faust. [1]"), "Warum?", has="warum, Faust"),
    Case(("Was ist ein Sperrwerk?", "Ein Sperrwerk schützt vor Sturmfluten. [1]"), "Wie funktioniert das?",
         has="wie funktioniert, Sperrwerk"),
    Case((*UNKNOWN, *EIFFEL), "where is it?", "where is the Eiffel Tower?"),
    Case(EIFFEL, "How do clients authenticate themselves?"),
    Case(EIFFEL, "What happens to a request if its client leaves?"),
    Case(EIFFEL, "Does it matter whether I use gRPC or HTTP?"),
    Case(EIFFEL, "Which city hosted the 1900 Olympics?"),
    Case(EIFFEL, "If a checkpoint has no tokenizer, can it be served?"),
    Case(EIFFEL, "How is the weather in Denver today?"),
    Case(EIFFEL, "Can one tenant see the files of another?"),
    Case(EIFFEL, "There was a fire in Chicago: when did it start?"),
    Case(EIFFEL, "thanks"),
    Case(DENVER, "Why does Envoy retry failed requests?"),
    Case(DENVER, "And what is the capital of Spain?"),
    Case(DENVER, "What do the numbers in square brackets mean?"),
    Case(GATE, "Wie viele Einwohner hat Hamburg?"),
    Case(GATE, "What was the first one-way street?"),
    Case(GATE, "Then who is allowed to delete a collection?"),
    Case(("Where are receipts stored?", "Receipts are stored in SQL. [1]"), "For how long?",
         has="how long, receipts"),
    Case(("Who may approve a refund?", "The team lead may approve a refund. [1]"), "Up to which sum?",
         has="sum, refund"),
    Case(("How do I create an API key?", "`tidegate keys create` makes a key. [1]"), "And how do I revoke one?",
         has="revoke, API key"),
    Case(("How do I create an API key?", "`tidegate keys create` makes a key. [1]"), "How can I delete it again?",
         "How can I delete an API key again?"),
    Case(("What does the guard do?", "The guard watches a Triton replica. [1]"), "How many of them run?",
         has="guard"),
    Case(("What is the height of Mount Everest?", "It is 8,849 metres high. [1]"), "Who climbed it first?",
         "Who climbed Mount Everest first?"),
    Case(("What is the height of Mount Everest?", "It is 8,849 metres high. [1]"), "And K2?",
         "What is the height of K2?"),
    Case(("Which port does Redis use?", "Redis uses port 8083. [1]"), "And Envoy?", "Which port does Envoy use?"),
    Case(("Which port does Redis use?", "Redis uses port 8083. [1]"), "Why that one?", has="port, Redis"),
    Case(("Who is the chairman of the cooperative?", "Jan Petersen chairs the cooperative. [1]"),
         "How can I reach him?", has="reach, Jan Petersen"),
    Case(("When does the harbour office open?", "It opens at 07:30. [1]"), "And when does it close?",
         "when does the harbour office close?"),
    Case(("When does the harbour office open?", "It opens at 07:30. [1]"), "And on Sundays?",
         has="harbour office, open, Sundays"),
    Case(("When does the harbour office open?", "It opens at 07:30. [1]"), "Since when?",
         has="since when, harbour office"),
    Case(("How much is a night at the north pier?", "A night costs 42 euros. [1]"), "What about the south pier?",
         "How much is a night at the south pier?"),
    Case(("How much is a night at the north pier?", "A night costs 42 euros. [1]"), "Is there a discount?"),
    Case(("What are the side effects of aspirin?", "Aspirin may cause bleeding. [1]"), "How common are they?",
         has="how common, side effects of aspirin"),
    Case(("What are the side effects of aspirin?", "Aspirin may cause bleeding. [1]"), "And of ibuprofen?",
         "What are the side effects of ibuprofen?"),
    Case(("Tell me about Marie Curie", "Marie Curie was a physicist. [1]"), "Which prizes did she win?",
         "Which prizes did Marie Curie win?"),
    Case(("Why did the Roman Empire fall?", "It fell for many reasons. [1]"), "When?",
         "When did the Roman Empire fall?"),
    Case(("Why did the Roman Empire fall?", "It fell for many reasons. [1]"), "When did that happen?",
         has="when, Roman Empire, fall"),
    Case(("What happens when Redis dies?", "Receipts come from SQL. [1]"), "And when Envoy dies?",
         has="happens, Envoy dies"),
    Case(("What happens when Redis dies?", "Receipts come from SQL. [1]"), "And Envoy?",
         "What happens when Envoy dies?"),
    Case(("Who founded the company?", "Maria Lopez founded the company. [1]"), "In which year?",
         has="in which year, founded the company"),
    Case(("Who founded the company?", "Maria Lopez founded the company. [1]"), "and who runs it today?",
         "who runs the company today?"),
    Case(("Which databases are supported?", "SQLite and PostgreSQL are supported. [1]"), "Which is the default?",
         has="default, databases"),
    Case(("Which databases are supported?", "SQLite and PostgreSQL are supported. [1]"), "What's the difference?",
         has="difference, databases"),
    Case(("Was kostet ein Liegeplatz?", "Ein Liegeplatz kostet 42 Euro. [1]"), "Und im Winter?",
         has="Liegeplatz, Winter"),
    Case(("Was kostet ein Liegeplatz?", "Ein Liegeplatz kostet 42 Euro. [1]"), "Wo kann ich ihn buchen?",
         has="buchen, Liegeplatz"),
    Case(EIFFEL, "What are the opening hours of the harbour office?"),
    Case(EIFFEL, "How do I get a list of all receipts?"),
    Case(EIFFEL, "Which settings does the gateway have?"),
    Case(EIFFEL, "Is there a limit on the size of a file?"),
    Case(EIFFEL, "What is the difference between fast and deep?"),
    Case(EIFFEL, "Does tidegate retry when its upstream fails?"),
    Case(EIFFEL, "For which tenants is caching enabled?"),
    Case(EIFFEL, "In what cases does the reader abstain?"),
    Case(EIFFEL, "Where do I find the log of the ingest worker?"),
    Case(EIFFEL, "And now explain how tides are caused"),
    Case(EIFFEL, "Denver population"),
    Case(EIFFEL, "How is a chunk different from a passage?"),
    Case(EIFFEL, "Which of the tiers is the fastest one?"),
    Case(EIFFEL, "What did the United States buy from Russia in 1867, and what did they pay for it?"),
    Case(EIFFEL, "On which day was Kennedy shot?"),
    Case(EIFFEL, "Can a user who lost the key get a new one?"),
    Case(EIFFEL, "What should I do if this happens: the disk is full?"),
    Case(DESIGNER, "Who was Alexandre Dumas?"),
    Case(HELLO, "And what is a tide gate?"),
]  # fmt: skip

HELD_OUT = [
    Case(("What is the warranty period of the pump?", "The warranty lasts two years. [1]"), "Does it cover leaks?",
         has="cover leaks, warranty"),
    Case(("What is the warranty period of the pump?", "The warranty lasts two years. [1]"), "and of the motor?",
         "What is the warranty period of the motor?"),
    Case(("Who is responsible for fire safety?", "Anna Berg is responsible for fire safety. [1]"),
         "Who is her deputy?", has="deputy, Anna Berg"),
    Case(("How many vacation days do employees get?", "Employees get 28 days. [1]"), "And part-time employees?",
         has="vacation days, part-time employees"),
    Case(("How many vacation days do employees get?", "Employees get 28 days. [1]"), "When do they expire?",
         has="expire, vacation days"),
    Case(("How many vacation days do employees get?", "Employees get 28 days. [1]"), "is that by law?",
         has="law, vacation days"),
    Case(("Can I bring my dog to the office?", "Dogs are allowed on the ground floor. [1]"), "And cats?",
         has="cats, office"),
    Case(("Can I bring my dog to the office?", "Dogs are allowed on the ground floor. [1]"), "Why not?",
         has="why not, dog, office"),
    Case(("Where was Mozart born?", "Mozart was born in Salzburg. [1]"), "and Beethoven?",
         "Where was Beethoven born?"),
    Case(("Where was Mozart born?", "Mozart was born in Salzburg. [1]"), "When did he move to Vienna?",
         "When did Mozart move to Vienna?"),
    Case(("Where was Mozart born?", "Mozart was born in Salzburg. [1]"), "What are his most famous operas?",
         "What are Mozart's most famous operas?"),
    Case(("What does error E42 mean?", "E42 means that the filter is clogged. [1]"), "How do I fix it?",
         "How do I fix error E42?"),
    Case(("What does error E42 mean?", "E42 means that the filter is clogged. [1]"), "and E43?",
         "What does error E43 mean?"),
    Case(("How do I export my data?", "Use the export page. [1]"), "In which format?", has="format, export my data"),
    Case(("How do I export my data?", "Use the export page. [1]"), "How long does that take?",
         has="how long, take, export my data"),
    Case(("What is the Treaty of Rome?", "The Treaty of Rome founded the EEC. [1]"), "Which countries signed it?",
         "Which countries signed the Treaty of Rome?"),
    Case(("What is the Treaty of Rome?", "The Treaty of Rome founded the EEC. [1]"), "When?",
         has="when, Treaty of Rome"),
    Case(("List the supported file types", "txt, md, html, pdf and docx. [1]"), "Is CSV one of them?",
         has="CSV, supported file types"),
    Case(("List the supported file types", "txt, md, html, pdf and docx. [1]"), "What about images?",
         has="images, supported file types"),
    Case((*GATE, "Who invented it?", "Nobody knows."), "How much does it cost?", "How much does a tide gate cost?"),
    Case((*GATE, "thanks", "You are welcome."), "where can I see one?", has="see, tide gate"),
    Case((*DESIGNER, "What else did he design?", "He designed bridges. [1]"), "Where are they?",
         has="where, design"),
    Case(("Wie hoch ist der Kölner Dom?", "Er ist 157 Meter hoch. [1]"), "Wann wurde er gebaut?",
         has="gebaut, Kölner Dom"),
    Case(GATE, "Where was Beethoven born?"),
    Case(GATE, "How do I turn off the alarm if it rings?"),
    Case(GATE, "Who do I call in an emergency?"),
    Case(GATE, "What are the rules for those who work from home?"),
    Case(GATE, "Does the warranty cover water damage?"),
    Case(GATE, "how many vacation days do I have"),
    Case(GATE, "vacation days"),
    Case(GATE, "What time is it in Tokyo?"),
    Case(GATE, "Is there parking at the office?"),
    Case(GATE, "Which form do I need for a business trip?"),
    Case(GATE, "In 1919, which treaty ended the war?"),
    Case(GATE, "What is the name of the CEO?"),
    Case(GATE, "Which one-way streets are in Denver?"),
    Case(GATE, "Can they fire me during the probation period?"),
    Case(GATE, "Why does the pump make that noise?"),
    Case(GATE, "What about the new travel policy: who approves flights?"),
    Case(GATE, "Was kostet ein Ticket nach Berlin?"),
]  # fmt: skip
