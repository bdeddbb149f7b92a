"""Reinforcement learning with tables: one short file per family of algorithms, with sources.

    mdp                  a finite Markov decision process as arrays, from gymnasium's transition tables too
    worlds               the small worlds of the textbook, whose values are known
    planning             policy evaluation, policy iteration, value iteration: the model is known
    tree_search          UCT: planning from some states by simulating the model
    episodes             many episodes as one array
    monte_carlo          values from whole returns; control by them
    temporal_difference  TD(0), n-step TD, TD(lambda) forward and backward, true online TD(lambda)
    exploration          epsilon-greedy, GLIE, Boltzmann
    vector_mdp           environments of a model that step together, and the tables they fill
    control              SARSA, expected SARSA, Q-learning, double Q-learning
    traces               SARSA(lambda), Watkins's Q(lambda)
    replay               Dyna-Q, trajectory replay, reverse updates

In all of them states are 0 to S - 1, and S is the end: a row of zeros that nothing leaves, so that no formula
needs a special case for the last step. Sections and pages are those of Sutton and Barto, "Reinforcement
Learning", 2nd edition, 2018.
"""
