/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The firmware's configuration: the command line first, then a list of QMP commands from fw_cfg
 * `opt/strongroom/config`, then one from the initrd. Each that exists is applied; any of them
 * counts as "configured".
 */
#include <string.h>

#include "board/fw_cfg.h"
#include "board/main.h"
#include "control/control.h"
#include "kernel/kernel.h"

#define CONFIG_FILE "opt/strongroom/config"
#define CONFIG_MAX  (1u << 20)

static int report(const char *where, int rc, const struct error *err)
{
    if (rc)
        log_plain("error: %s: %s", where, err->set ? err->msg : sr_strerror(rc));
    return rc;
}

static int co_apply_fw_cfg(bool *configured)
{
    struct error err = {0};
    uint16_t key;
    size_t len = fw_cfg_find(CONFIG_FILE, &key);
    if (!len)
        return 0;
    *configured = true;
    if (len > CONFIG_MAX)
        return report(CONFIG_FILE, error_set(&err, SR_EINVAL, "longer than 1 MiB"), &err);
    char *text = sr_malloc(len);
    if (!text)
        return report(CONFIG_FILE, SR_ENOMEM, &err);
    fw_cfg_read(key, text, len);
    int rc = co_control_config(text, len, &err);
    sr_free(text);
    return report(CONFIG_FILE, rc, &err);
}

static int co_apply_initrd(bool *configured)
{
    struct error err = {0};
    const void *text;
    size_t len;
    if (!board_module(0, &text, &len) || !len || *(const char *)text != '[')
        return 0;
    *configured = true;
    return report("initrd", co_control_config(text, len, &err), &err);
}

static int co_configure(void *cmdline, bool *configured)
{
    int rc = co_control_apply_text(cmdline, configured);
    if (!rc)
        rc = co_apply_fw_cfg(configured);
    return rc ? rc : co_apply_initrd(configured);
}

NORETURN void strongroom_main(const char *cmdline)
{
    static char words[4096]; /* the loader's memory is given away later */
    size_t n = strlen(cmdline);
    if (n >= sizeof(words))
        panic("command line of %zu bytes; %zu fit: use %s", n, sizeof(words) - 1, CONFIG_FILE);
    memcpy(words, cmdline, n + 1);
    strongroom_run(co_configure, words);
}
