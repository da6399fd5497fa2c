/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_FDT_H
#define BOARD_FDT_H
/*
 * Reads a flattened device tree (Devicetree Specification 0.4, chapter 5) into a struct machine.
 *
 * The tree is foreign: at most `len` bytes are looked at, whatever its header says. What is wrong
 * with one device costs that device and one console line; what is wrong with the tree's structure
 * costs everything behind that place. Nothing aborts, nothing runs for longer than a few passes
 * over `len` bytes. Start-up; allocates nothing.
 */
#include "board/machine.h"

/* `fdt` is 8-byte aligned. Fills *m, which is cleared first. SR_EINVAL: this is no device tree. */
int fdt_read(struct machine *m, const void *fdt, size_t len);
#endif
