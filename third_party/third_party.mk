# SPDX-License-Identifier: BSD-2-Clause
#
# The libraries: which files of each we use and how they are configured. Sources are unpacked in
# $(TP)/src. For each form this sets
#   LIBS_form     the archives to link, in order
#   SYSLIBS_form  what follows them on the command line
#   HEADERS_form  what must exist before the first of our files is compiled
#
# zlib, zstd and json-c are built twice: for the firmware, and once plainly for all host forms. lwIP
# and libfdt are built per form, with its sanitizers, because they parse foreign bytes. None sees our
# warnings.

# --- files ---------------------------------------------------------------------------------------

FILES_zlib := adler32 crc32 deflate inffast inflate inftrees trees zutil

FILES_zstd := $(addprefix lib/common/,debug entropy_common error_private fse_decompress xxhash \
                  zstd_common) \
              $(addprefix lib/decompress/,huf_decompress zstd_ddict zstd_decompress \
                  zstd_decompress_block) \
              $(addprefix lib/compress/,fse_compress hist huf_compress zstd_compress \
                  zstd_compress_literals zstd_compress_sequences zstd_compress_superblock \
                  zstd_double_fast)

FILES_json-c := arraylist json_c_version json_object json_object_iterator json_tokener json_util \
                linkhash printbuf strerror_override

FILES_newlib := $(addprefix newlib/libm/,math/s_frexp common/s_nan)

FILES_lwip := $(addprefix src/core/,def inet_chksum init ip mem memp netif pbuf stats sys tcp tcp_in \
                  tcp_out timeouts udp dns raw) \
              $(addprefix src/core/ipv4/,dhcp etharp icmp igmp ip4 ip4_addr ip4_frag) \
              $(addprefix src/core/ipv6/,dhcp6 ethip6 icmp6 inet6 ip6 ip6_addr ip6_frag mld6 nd6) \
              src/netif/ethernet

FILES_libfdt := $(addprefix lib/libfdt/,fdt fdt_ro fdt_strerror)

# --- configuration -------------------------------------------------------------------------------

# Z_SOLO: no allocator and no file of its own; who calls inflateInit supplies zalloc and zfree.
CONFIG_zlib   := -DZ_SOLO
# In C only, one variant of each inner loop; compression with one strategy only.
CONFIG_zstd   := -DZSTD_DISABLE_ASM=1 -DXXH_NAMESPACE=ZSTD_ -DZSTD_LEGACY_SUPPORT=0 -DDYNAMIC_BMI2=0
ONE_STRATEGY  := -I$(TP)/src/zstd/lib/compress -include third_party/zstd/dfast.h
CONFIG_json-c := -D_GNU_SOURCE -Ithird_party/json-c -I$(TP)/src/json-c
# A property's length may wrap an int; what comes of it is checked, so it has to be defined.
CONFIG_libfdt := -fwrapv
CONFIG_newlib := -fno-builtin -I$(TP)/src/newlib/newlib/libm/common

# --- unpacking -----------------------------------------------------------------------------------

SOURCES := lwip zlib zstd json-c libfdt
$(TP)/src/%.unpacked: third_party/manifest third_party/fetch.sh
	$(call say,UNPACK)
	@mkdir -p $(@D)
	$(Q)third_party/fetch.sh $* $(TP)/src/$*
	@touch $@
unpacked := $(SOURCES:%=$(TP)/src/%.unpacked)

# --- zlib, zstd, json-c: $(TP)/KIND/libX.a -------------------------------------------------------

PLAIN        := zlib zstd json-c
$(foreach a,$(FW_ARCHES),$(eval TPCC_$a := $(CC_$a) -std=gnu17 $(call firmware,$a) \
    -ffunction-sections -fdata-sections))
TPCC_native  := gcc -std=gnu17 -O2 -g -fPIE

# $(call library,KIND,NAME)
define library
$$(call remember,$(TP)/$1/$2.options,$$(TPCC_$1) $$(CONFIG_$2) $$(FILES_$2))

$(TP)/$1/obj/$2/%.o: $(TP)/src/$2.unpacked $(TP)/$1/$2.options | $$(HEADERS_$1)
	@mkdir -p $$(@D)
	$$(Q)$$(TPCC_$1) $$(CONFIG_$2) -w -MMD -MP -c -o $$@ $(TP)/src/$2/$$*.c

$(TP)/$1/lib$2.a: $$(FILES_$2:%=$(TP)/$1/obj/$2/%.o)
	$$(call say,AR)
	@rm -f $$@
	$$(Q)ar rcs $$@ $$^

-include $$(FILES_$2:%=$(TP)/$1/obj/$2/%.d)
endef

# --- newlib: $(TP)/ARCH/newlib/{include,libc.a} --------------------------------------------------
#
# Only libc is wanted, so the configure script of newlib/ itself is called, with our gcc behind a
# wrapper that hides glibc. x86_64 wants the system calls without underscore (read, write, sbrk,
# ...), aarch64 with one, and __getreent from who supplies them. gcc's stdatomic.h is the better one. Of libm only what
# printf and strtod call is wanted: those files make a libnewlib.a of their own, and an empty libm.a
# keeps the makefile of newlib from missing the rest.

NEWLIB_OPTIONS := --disable-multilib --disable-newlib-supplied-syscalls \
    --enable-newlib-io-long-long --enable-newlib-io-c99-formats --enable-newlib-reent-small \
    --enable-newlib-retargetable-locking --disable-newlib-wide-orient \
    --disable-newlib-fseek-optimization --disable-dependency-tracking

# $(call newlib,ARCH)
define newlib
$$(call remember,$(TP)/$1/libc.options,$(NEWLIB_OPTIONS) $(NOT_LINUX) $(MACHINE_$1))

$(TP)/$1/newlib/configured: $(TP)/src/newlib.unpacked $(TP)/$1/libc.options
	$$(call say,CONF)
	@rm -rf $$(@D) && mkdir -p $$(@D)/build $$(@D)/include
	$$(Q)printf '#!/bin/sh\nexec %s -nostdinc -isystem %s %s "$$$$@"\n' \
	    $(CC_$1) $(call GCC_INCLUDE,$1) '$(NOT_LINUX)' >$$(@D)/cc
	@chmod +x $$(@D)/cc
	$$(Q)cd $$(@D)/build && $(abspath $(TP))/src/newlib/newlib/configure --host=$1-elf \
	    --build=$$$$(gcc -dumpmachine) $(NEWLIB_OPTIONS) CC=$(abspath $(TP))/$1/newlib/cc AR=$(CROSS_$1)ar \
	    AS=$(CROSS_$1)as RANLIB=$(CROSS_$1)ranlib CFLAGS="-O2 -g0 -ffreestanding -fno-builtin -D__DYNAMIC_REENT__ -fno-pic -fno-pie \
	    -ffunction-sections -fdata-sections $(MACHINE_$1)" >configure.log 2>&1
	$$(Q)MAKEFLAGS= $(MAKE) -C $$(@D)/build stmp-targ-include >$$(@D)/headers.log 2>&1
	$$(Q)cp -R $(TP)/src/newlib/newlib/libc/include/. $$(@D)/build/targ-include/. $$(@D)/include
	@rm -f $$(@D)/include/stdatomic.h
	@touch $$(@D)/build/libm/libm.a $$@

$(TP)/$1/newlib/libc.a: $(TP)/$1/newlib/configured
	$$(call say,MAKE)
	$$(Q)MAKEFLAGS= $(MAKE) -j$$$$(nproc) -C $$(@D)/build all-recursive SUBDIRS=libc \
	    >$$(@D)/make.log 2>&1 || { tail $$(@D)/make.log; exit 1; }
	@cp $$(@D)/build/libc/libc.a $$@
endef

# --- lwIP, libfdt: $(BUILD)/FORM/libX.a ----------------------------------------------------------

# Our configuration is a system header to the compiler, so -MMD does not tell of it.
HEADERS_lwip := net/lwipopts.h net/arch/cc.h net/lwip_hooks.h
PER_FORM     := lwip libfdt

# $(call per_form,FORM,NAME)
define per_form
$(BUILD)/$1/$2/%.o: $(TP)/src/$2.unpacked $(HEADERS_$2) $(BUILD)/$1/flags | $$(HEADERS_$1)
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$1) $$(CFLAGS_$1) $$(CONFIG_$2) -w -MMD -MP -c -o $$@ $(TP)/src/$2/$$*.c

$(BUILD)/$1/lib$2.a: $(FILES_$2:%=$(BUILD)/$1/$2/%.o)
	$$(call say,AR)
	@rm -f $$@
	$$(Q)ar rcs $$@ $$^

-include $(FILES_$2:%=$(BUILD)/$1/$2/%.d)
endef

# --- together ------------------------------------------------------------------------------------

$(foreach a,$(FW_ARCHES),$(eval HEADERS_$a := $(unpacked) $(TP)/$a/newlib/configured))
$(foreach f,host asan tsan fuzz $(SIMS) native,$(eval HEADERS_$f := $(unpacked)))

$(foreach a,$(FW_ARCHES),$(eval $(call newlib,$a)))
$(foreach k,$(FW_ARCHES) native,$(foreach l,$(PLAIN),$(eval $(call library,$k,$l))))
$(foreach a,$(FW_ARCHES),$(eval $(call library,$a,newlib)))
$(foreach k,$(FW_ARCHES) native,$(eval \
    $(TP)/$k/obj/zstd/lib/compress/zstd_compress.o: CONFIG_zstd += $(ONE_STRATEGY)))
$(foreach f,$(filter-out $(SIMS),$(FORMS)),$(foreach l,$(PER_FORM),$(eval $(call per_form,$f,$l))))

$(foreach a,$(FW_ARCHES),$(eval LIBS_$a := $(PER_FORM:%=$(BUILD)/$a/lib%.a) \
    $(PLAIN:%=$(TP)/$a/lib%.a) $(TP)/$a/newlib/libc.a $(TP)/$a/libnewlib.a))
$(foreach f,host asan tsan fuzz,$(eval LIBS_$f := $(PER_FORM:%=$(BUILD)/$f/lib%.a) \
    $(PLAIN:%=$(TP)/native/lib%.a)))
$(foreach a,$(FW_ARCHES),$(eval SYSLIBS_$a := -lgcc))
$(foreach f,host asan tsan fuzz,$(eval SYSLIBS_$f := -luring))
$(foreach f,$(SIMS),$(eval LIBS_$f := $(TP)/native/libzlib.a $(TP)/native/libzstd.a))
