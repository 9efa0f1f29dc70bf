-- A database as the first release of the schema (0001) left it: five keys of the one account there was.
-- The secrets of the keys stand in test_upgrade.py.
PRAGMA journal_mode = WAL;
BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR NOT NULL,
	create_time BIGINT NOT NULL,
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795325338834486);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE api_keys (
	id VARCHAR NOT NULL,
	account_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	prefix VARCHAR NOT NULL,
	secret_hash BLOB NOT NULL,
	role SMALLINT NOT NULL,
	create_time BIGINT NOT NULL,
	expire_time BIGINT,
	revoke_time BIGINT,
	CONSTRAINT pk_api_keys PRIMARY KEY (id),
	CONSTRAINT fk_api_keys_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
	CONSTRAINT uq_api_keys_secret_hash UNIQUE (secret_hash)
);
INSERT INTO "api_keys" VALUES('key_01a201baa4e770cd9ea9ac9e450501e7','default','bootstrap key','dgm_first-',X'40E332B0FD574E52FB1C5F270A9FB435AF1BCBF47B54A4FADC19954CB10304C0',2,1772000000000000,NULL,NULL);
INSERT INTO "api_keys" VALUES('key_01a201baa4fa71f99f20370195b6c750','default','deploy 🚀','dgm_admin-',X'491A7281110466EE2E805653D2515B4DEBFB07E4305F8447032C04C1251ECE6E',2,1772000060000000,NULL,NULL);
INSERT INTO "api_keys" VALUES('key_01a201baa50377e6858e376f79777fb4','default','laptop','dgm_member',X'4A52C9D1039EDA4A9FEFE50FEBB622AC969A140918EE78A29661DA4E1C4A7FAE',1,1772000120000000,NULL,NULL);
INSERT INTO "api_keys" VALUES('key_01a201baa513721aa0d096c0ddee309a','default','contractor','dgm_expire',X'4D1088107D474B433A52B7697DA265861640AB46E8C8545C507E7D891DAABD05',1,1772000180000000,1772003720000000,NULL);
INSERT INTO "api_keys" VALUES('key_01a201baa51a79b4adfe4a37ae9af19d','default','lost','dgm_revoke',X'2ADE1AD414197ED3F7BB16AD6CD6AB13DE612E00A7CCDE8945A7338B7B241138',1,1772000240000000,NULL,1772000240000000);
CREATE INDEX ix_api_keys_account_id ON api_keys (account_id, create_time, id);
COMMIT;
