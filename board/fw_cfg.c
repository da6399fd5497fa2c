/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fw_cfg: select an item by its 16-bit key, read its bytes in order. Item 0 is the signature
 * "QEMU", item 0x19 the directory: a count and entries of name, size and key, all big-endian. The
 * directory is foreign: the count is bounded, names are ended here.
 */
#include "board/fw_cfg.h"

#include <string.h>

#include "kernel/endian.h"

#define FW_CFG_SIGNATURE 0x00
#define FW_CFG_FILE_DIR  0x19
#define FW_CFG_MAX_FILES 256

struct fw_cfg_file {
    be32 size;
    be16 select;
    be16 reserved;
    char name[56];
};
static_assert(sizeof(struct fw_cfg_file) == 64, "fw_cfg.rst: struct FWCfgFile");

static const struct fw_cfg_ops *ops;

void fw_cfg_init(const struct fw_cfg_ops *o)
{
    char signature[4];
    o->select(FW_CFG_SIGNATURE);
    o->read(signature, sizeof(signature));
    if (!memcmp(signature, "QEMU", 4))
        ops = o;
}

size_t fw_cfg_find(const char *name, uint16_t *key)
{
    be32 count;
    if (!ops)
        return 0;
    ops->select(FW_CFG_FILE_DIR);
    ops->read(&count, sizeof(count));
    uint32_t n = MIN(be32_get(count), (uint32_t)FW_CFG_MAX_FILES);
    for (uint32_t i = 0; i < n; i++) {
        struct fw_cfg_file f;
        ops->read(&f, sizeof(f));
        if (!strncmp(f.name, name, sizeof(f.name))) {
            *key = be16_get(f.select);
            return be32_get(f.size);
        }
    }
    return 0;
}

void fw_cfg_read(uint16_t key, void *buf, size_t len)
{
    ops->select(key);
    ops->read(buf, len);
}
