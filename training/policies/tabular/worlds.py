"""Small worlds with known values, from Sutton and Barto 2018, and an exact model of gymnasium's Blackjack."""

from statistics import NormalDist

import numpy as np

from training.policies.tabular.mdp import FiniteMDP, Outcome, from_table

UP, DOWN, RIGHT, LEFT = (-1, 0), (1, 0), (0, 1), (0, -1)
MOVES = (UP, DOWN, RIGHT, LEFT)

STICK, HIT = 0, 1
BLACKJACK_SIZES = (32, 11, 2)  # own sum, dealer's card, usable ace: what Blackjack-v1 observes
CARDS = {**dict.fromkeys(range(1, 10), 1 / 13), 10: 4 / 13}


def random_walk(states: int, left: float = 0.0, right: float = 1.0) -> FiniteMDP:
    """A row of states with one action, one step to either side (example 6.2, p. 125).

    It starts in the middle and pays on leaving.
    """

    def to(state: int) -> Outcome:
        ends = state in (-1, states)
        return 0.5, 0 if ends else state, left if state < 0 else right if ends else 0.0, ends

    return from_table({state: {0: [to(state - 1), to(state + 1)]} for state in range(states)}, states // 2)


def gridworld() -> FiniteMDP:
    """Four by four cells, -1 per step to one of two corners (example 4.1, p. 76).

    The corners are states that end at once.
    """

    def move(row: int, column: int, down: int, across: int) -> list[Outcome]:
        if (row, column) in ((0, 0), (3, 3)):
            return [(1.0, 0, 0.0, True)]
        target = 4 * min(max(row + down, 0), 3) + min(max(column + across, 0), 3)
        return [(1.0, target, -1.0, target in (0, 15))]

    cells = [(row, column) for row in range(4) for column in range(4)]
    return from_table(
        {4 * r + c: {a: move(r, c, *step) for a, step in enumerate(MOVES)} for r, c in cells},
        np.full(16, 1 / 16),
    )


def gambler(heads: float = 0.4, goal: int = 100) -> FiniteMDP:
    """Stakes on a coin until broke or at `goal`, which pays 1 (example 4.3, p. 84).

    State = capital, action = stake; 0 ends.
    """

    def bet(capital: int, stake: int) -> list[Outcome]:
        won = capital + stake
        return [
            (heads, won % goal, float(won == goal), won == goal),
            (1 - heads, capital - stake, 0.0, capital == stake),
        ]

    table = {
        capital: {stake: bet(capital, stake) for stake in range(1, min(capital, goal - capital) + 1)}
        for capital in range(1, goal)
    }
    return from_table({0: {1: [(1.0, 0, 0.0, True)]}, **table}, goal // 2)


def windy_gridworld() -> FiniteMDP:
    """Seven by ten cells with an upward wind, -1 per step (example 6.5, p. 130): 15 steps at best."""
    wind, start, goal = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0), (3, 0), (3, 7)

    def move(row: int, column: int, down: int, across: int) -> list[Outcome]:
        to = (min(max(row + down - wind[column], 0), 6), min(max(column + across, 0), 9))
        return [(1.0, 10 * to[0] + to[1], -1.0, to == goal)]

    cells = [(row, column) for row in range(7) for column in range(10)]
    return from_table(
        {10 * r + c: {a: move(r, c, *step) for a, step in enumerate(MOVES)} for r, c in cells},
        10 * start[0] + start[1],
    )


def maze() -> FiniteMDP:
    """The Dyna maze, six by nine cells with walls, 1 for the goal (example 8.1, p. 164): 14 steps at best."""
    walls, start, goal = {(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)}, (2, 0), (0, 8)

    def move(row: int, column: int, down: int, across: int) -> list[Outcome]:
        to = (min(max(row + down, 0), 5), min(max(column + across, 0), 8))
        to = (row, column) if to in walls else to
        return [(1.0, 9 * to[0] + to[1], float(to == goal), to == goal)]

    cells = [(row, column) for row in range(6) for column in range(9)]
    return from_table(
        {9 * r + c: {a: move(r, c, *step) for a, step in enumerate(MOVES)} for r, c in cells},
        9 * start[0] + start[1],
    )


def maximization_bias(many: int = 10, points: int = 200) -> FiniteMDP:
    """Right (1) ends with 0; left (0) leads to state 1, whose `many` actions end with about -0.1.

    Example 6.7, p. 134. The book's normal rewards, of mean -0.1 and standard deviation 1, stand as `points`
    quantiles of equal probability and the same two moments.
    """
    quantiles = np.array([NormalDist().inv_cdf((point + 0.5) / points) for point in range(points)])
    rewards = -0.1 + quantiles / quantiles.std()
    last: list[Outcome] = [(1 / points, 0, float(reward), True) for reward in rewards]
    return from_table(
        {0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 0, 0.0, True)]}, 1: dict.fromkeys(range(many), last)}, 0
    )


def blackjack(natural_wins: bool = True) -> FiniteMDP:
    """Gymnasium's Blackjack-v1 (example 5.1, p. 93): an infinite deck, the dealer hits below 17.

    Actions are STICK and HIT. State (own sum, dealer's card, usable ace) has the number ((sum * 11) + card) *
    2 + ace, 704 in all; 704 + card is the same as (21, card, 1) with only two cards, a natural, which wins
    unless the dealer has one too; with `natural_wins` False (the environment's option sab) it is a 21 like
    any other.
    """
    natural = int(np.prod(BLACKJACK_SIZES))
    dealt = {card: _dealer(card) for card in CARDS}
    table: dict[int, dict[int, list[Outcome]]] = {}
    for state in range(natural + BLACKJACK_SIZES[1]):
        own, card, ace = (
            (21, state - natural, 1)
            if state >= natural
            else map(int, np.unravel_index(state, BLACKJACK_SIZES))
        )
        if state >= natural:
            dealers = CARDS.get({1: 10, 10: 1}.get(card, 0), 0.0)
            stick: list[Outcome] = [(dealers, 0, 0.0, True), (1 - dealers, 0, 1.0, True)]
        else:
            shown = dealt.get(card, {0: 1.0})  # no dealer shows 0: a state that is never met
            stick = [
                (likely, 0, float(np.sign((own if own <= 21 else 0) - total)), True)
                for total, likely in shown.items()
            ]
        table[state] = {STICK: stick, HIT: [_hit(own, card, ace, drawn) for drawn in CARDS]}
    start = np.zeros(len(table))
    for first, once in CARDS.items():
        for second, again in CARDS.items():
            ace = int(1 in (first, second))
            own = first + second + 10 * ace
            for card, likely in CARDS.items():
                start[natural + card if own == 21 and natural_wins else blackjack_state(own, card, ace)] += (
                    once * again * likely
                )
    return from_table(table, start)


def blackjack_state(own: int, card: int, ace: int) -> int:
    """The number of a state."""
    return int(np.ravel_multi_index((own, card, ace), BLACKJACK_SIZES))


def _hit(own: int, card: int, ace: int, drawn: int) -> Outcome:
    hard = own - 10 * ace + drawn
    ace = int((ace or drawn == 1) and hard + 10 <= 21)
    bust = hard > 21 or own > 21
    return CARDS[drawn], 0 if bust else blackjack_state(hard + 10 * ace, card, ace), -float(bust), bust


def _dealer(card: int) -> dict[int, float]:
    """Probabilities of the dealer's final sum, 0 when bust, by the card that is shown."""
    ends: dict[int, float] = {}
    hands = {(card, card == 1, 1): 1.0}  # hard sum, ace, cards
    while hands:
        (hard, ace, count), chance = hands.popitem()
        total = hard + 10 if ace and hard + 10 <= 21 else hard
        if count > 1 and total >= 17:
            ends[total if total <= 21 else 0] = ends.get(total if total <= 21 else 0, 0.0) + chance
            continue
        for drawn, likely in CARDS.items():
            hand = (hard + drawn, ace or drawn == 1, 2)
            hands[hand] = hands.get(hand, 0.0) + chance * likely
    return ends


LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
Board = tuple[int, ...]  # nine cells, row by row: 0 free, 1 ours, -1 the other's


def tic_tac_toe() -> tuple[FiniteMDP, dict[Board, int]]:
    """The game with the first move against a perfect player: (model, board in which we move -> state).

    The opponent draws among its best replies. An action is the cell that we take. It pays 1 when we win and
    -1 when we lose; against such a player the game is worth 0.
    """
    values: dict[tuple[Board, int], int] = {}

    def value(board: Board, mover: int) -> int:
        """What the game is worth to us if both play perfectly."""
        if (board, mover) not in values:
            if (won := _winner(board)) or 0 not in board:
                values[board, mover] = won
            else:
                best = max if mover == 1 else min
                values[board, mover] = best(
                    value(_placed(board, cell, mover), -mover) for cell in _free(board)
                )
        return values[board, mover]

    numbers: dict[Board, int] = {(0,) * 9: 0}
    table: dict[int, dict[int, list[Outcome]]] = {}
    waiting = [*numbers]
    while waiting:
        board = waiting.pop()
        row = table[numbers[board]] = {}
        for cell in _free(board):
            ours = _placed(board, cell, 1)
            if _winner(ours) or 0 not in ours:
                row[cell] = [(1.0, 0, float(_winner(ours)), True)]
                continue
            replies = [_placed(ours, reply, -1) for reply in _free(ours)]
            least = min(value(reply, 1) for reply in replies)
            best = [reply for reply in replies if value(reply, 1) == least]
            for reply in best:
                if reply not in numbers and not _winner(reply):
                    numbers[reply] = len(numbers)
                    waiting.append(reply)
            row[cell] = [
                (1 / len(best), numbers.get(reply, 0), float(_winner(reply)), bool(_winner(reply)))
                for reply in best
            ]
    return from_table(dict(sorted(table.items())), 0, actions=9), numbers


def _free(board: Board) -> list[int]:
    return [cell for cell, owner in enumerate(board) if not owner]


def _placed(board: Board, cell: int, owner: int) -> Board:
    return (*board[:cell], owner, *board[cell + 1 :])


def _winner(board: Board) -> int:
    """1 or -1, 0 without."""
    sums = [sum(board[cell] for cell in line) for line in LINES]
    return (3 in sums) - (-3 in sums)
