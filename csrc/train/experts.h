// Experts of a mixture layer, forward and backward, on rows that come sorted by expert.
//
// T tokens of width D, E experts of size F, K slots a token, R routed rows. Sums over slots run in
// slot order, sums over rows in row order: the number of threads changes no bit.
#pragma once

#include <cstdint>
#include <vector>

#include "../kernels.h"
#include "panels.h"
#include "team.h"

namespace expertly {

struct Shape {
    int64_t tokens, width, size, experts, slots, rows;
};

// which rows there are, and of which token
struct Routed {
    Shape shape;
    std::vector<int64_t> first_E;   // and one more: all rows
    std::vector<int64_t> token_R;
    std::vector<int64_t> place_TK;  // the row of a token's slot; -1: there is none
    const int64_t* order_R;

    // throws std::invalid_argument for rows that do not fit together
    Routed(Shape shape, const int64_t* order_R, const int64_t* counts_E);
};

struct ExpertWeights {
    Reals gate_EFD, up_EFD, down_EDF;
};

struct ExpertPass {
    const Routed& routed;
    const GluRule& rule;
    Real factors;  // what products are of, and what is kept between the passes
    Reals x_TD;
    ExpertWeights weights;
    const float* weight_TK;
};

// memory that both passes use and give back
struct Rooms {
    Scratch rows, inner, hidden;
};

// kept_RX is what the backward pass needs, in the type of the factors
void experts_forward(Team& team, const Kernels& kernels, const ExpertPass& pass, Rooms& rooms,
                     Reals kept_RX, Reals y_TD);

struct ExpertGradients {
    Reals x_TD;
    ExpertWeights weights;
    float* weight_TK;
};

void experts_backward(Team& team, const Kernels& kernels, const ExpertPass& pass, Rooms& rooms,
                      Reals kept_RX, Reals grad_y_TD, const ExpertGradients& to);

}  // namespace expertly
