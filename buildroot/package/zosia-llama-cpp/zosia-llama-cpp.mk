################################################################################
#
# zosia-llama-cpp
#
################################################################################

# Not Buildroot's own llama-cpp: that is another version without the levels of
# CPU, and no two packages can have one name.
ZOSIA_LLAMA_CPP_VERSION = 0.3.36
ZOSIA_LLAMA_CPP_SITE = https://github.com/abetlen/llama-cpp-python/releases/download/v$(ZOSIA_LLAMA_CPP_VERSION)
ZOSIA_LLAMA_CPP_SOURCE = llama_cpp_python-$(ZOSIA_LLAMA_CPP_VERSION).tar.gz
ZOSIA_LLAMA_CPP_LICENSE = MIT
ZOSIA_LLAMA_CPP_LICENSE_FILES = vendor/llama.cpp/LICENSE
ZOSIA_LLAMA_CPP_SUBDIR = zosia
ZOSIA_LLAMA_CPP_SUPPORTS_IN_SOURCE_BUILD = NO

ZOSIA_LLAMA_CPP_REPOSITORY = $(BR2_EXTERNAL_ZOSIA_PATH)/..

# The file of sources.toml is the one that pip has; where there is no pip, the
# site above has what upstream builds beside it. The hash decides either way, and
# pip, which asks a source for its needs, checks it before it runs anything of it.
ZOSIA_LLAMA_CPP_SHA256 = $(firstword $(shell sed -n 's/^sha256  \([0-9a-f]*\)  $(ZOSIA_LLAMA_CPP_SOURCE)$$/\1/p' \
	$(BR2_EXTERNAL_ZOSIA_PATH)/package/zosia-llama-cpp/zosia-llama-cpp.hash))
define ZOSIA_LLAMA_CPP_DOWNLOAD_BY_PIP
	if [ ! -e $(ZOSIA_LLAMA_CPP_DL_DIR)/$(ZOSIA_LLAMA_CPP_SOURCE) ]; then \
		mkdir -p $(ZOSIA_LLAMA_CPP_DL_DIR)/pip && \
		echo "llama-cpp-python==$(ZOSIA_LLAMA_CPP_VERSION) --hash=sha256:$(ZOSIA_LLAMA_CPP_SHA256)" \
			>$(ZOSIA_LLAMA_CPP_DL_DIR)/pip/wanted && \
		python3 -m pip download --no-deps --no-binary llama-cpp-python \
			--dest $(ZOSIA_LLAMA_CPP_DL_DIR)/pip --require-hashes \
			-r $(ZOSIA_LLAMA_CPP_DL_DIR)/pip/wanted && \
		mv $(ZOSIA_LLAMA_CPP_DL_DIR)/pip/$(ZOSIA_LLAMA_CPP_SOURCE) $(ZOSIA_LLAMA_CPP_DL_DIR)/; \
	fi || true
endef
ZOSIA_LLAMA_CPP_PRE_DOWNLOAD_HOOKS += ZOSIA_LLAMA_CPP_DOWNLOAD_BY_PIP

# The project that compiles llama-cli for each level is the repository's. The
# source has half a .git, which would confuse upstream's project.
define ZOSIA_LLAMA_CPP_ADD_PROJECT
	rm -rf $(@D)/vendor/llama.cpp/.git $(@D)/zosia
	cp -r $(ZOSIA_LLAMA_CPP_REPOSITORY)/llama $(@D)/zosia
endef
ZOSIA_LLAMA_CPP_POST_EXTRACT_HOOKS += ZOSIA_LLAMA_CPP_ADD_PROJECT
ZOSIA_LLAMA_CPP_POST_RSYNC_HOOKS += ZOSIA_LLAMA_CPP_ADD_PROJECT

# Quoted, for a list of CMake has semicolons.
ZOSIA_LLAMA_CPP_CONF_OPTS = \
	-DLLAMA_SRC=$(@D)/vendor/llama.cpp \
	$(foreach option,$(or $(shell $(BR2_EXTERNAL_ZOSIA_PATH)/board/zosia/guest.py options $(BR2_ARCH)),$(error zosia-llama-cpp needs Python 3.11 and zosia's whole repository)),'$(option)')

# The relay of the server's connections, in the same package: it is one file.
define ZOSIA_LLAMA_CPP_BUILD_STREAMS
	$(TARGET_CC) $(TARGET_CFLAGS) -std=c11 -D_GNU_SOURCE $(TARGET_LDFLAGS) -o $(@D)/zosia-streams \
		$(ZOSIA_LLAMA_CPP_REPOSITORY)/initramfs/streams.c
endef
ZOSIA_LLAMA_CPP_POST_BUILD_HOOKS += ZOSIA_LLAMA_CPP_BUILD_STREAMS

# For post-image, which knows where they belong in the initramfs.
define ZOSIA_LLAMA_CPP_INSTALL_TARGET_CMDS
	mkdir -p $(TARGET_DIR)/usr/bin
	$(INSTALL) -m 0755 $(ZOSIA_LLAMA_CPP_BUILDDIR)/bin/llama-cli-* $(@D)/zosia-streams $(TARGET_DIR)/usr/bin/
endef

$(eval $(cmake-package))
