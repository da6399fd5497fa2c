/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_BOARD_H
#define BOARD_BOARD_H
/* What the files shared by all firmware boards ask of the one that is linked. Boot core, loop 0. */
#include "kernel/compiler.h"

/* 64 bits from the processor's generator; false when there is none or it has run dry. */
bool board_hw_random(uint64_t *v);
#endif
