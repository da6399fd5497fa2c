/* SPDX-License-Identifier: BSD-2-Clause */
/* fw_cfg by its I/O ports: a 16-bit selector, and a data port that gives the next byte. */
#include "board/fw_cfg.h"
#include "board/pc/pc.h"
#include "boot/x86_64/cpu.h"

enum { FW_CFG_SELECT = 0x510, FW_CFG_DATA = 0x511 };

static void select(uint16_t key)
{
    outw(FW_CFG_SELECT, key);
}

static void read(void *buf, size_t len)
{
    uint8_t *p = buf;
    for (size_t i = 0; i < len; i++)
        p[i] = inb(FW_CFG_DATA);
}

void fw_cfg_port_init(void)
{
    static const struct fw_cfg_ops ops = {select, read};
    fw_cfg_init(&ops);
}
