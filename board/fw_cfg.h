/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_FW_CFG_H
#define BOARD_FW_CFG_H
/*
 * QEMU's firmware configuration device: named files that the host gives us. Source: QEMU
 * docs/specs/fw_cfg. Control path, before or after the loop runs; nothing yields. The board
 * supplies the two register accesses.
 */
#include "kernel/compiler.h"

struct fw_cfg_ops {
    void (*select)(uint16_t key);
    void (*read)(void *buf, size_t len); /* next bytes of the selected item */
};
void fw_cfg_init(const struct fw_cfg_ops *ops); /* looks for the signature; silent when absent */
/* Size of the file, or 0 when there is none by that name (or no device). */
size_t fw_cfg_find(const char *name, uint16_t *key);
void fw_cfg_read(uint16_t key, void *buf, size_t len);
#endif
